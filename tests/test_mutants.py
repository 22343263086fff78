"""Which tests a changed line meets first, when `make mutants` runs."""

from pathlib import Path

from tests.mutants.nearest import graph, nearest

FILES = {
    "service/queue.py": "def put(): ...",
    "service/app.py": "from service.queue import put",
    "tests/service/test_queue.py": "import service.app",
    "tests/service/test_app.py": "import service.app",
    "tests/service/test_put.py": "import service.app\nput = 1",
    "tests/vit/test_queue.py": "from service import queue",
    "tests/service/test_none.py": "",
}


def test_the_nearest_tests_are_those_of_the_package_and_of_the_name(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = nearest(tmp_path, graph(tmp_path), "service/queue.py", 9)
    names = ["service/test_queue", "vit/test_queue", "service/test_put", "service/test_app"]
    assert found == [f"tests/{name}.py" for name in names]
    assert nearest(tmp_path, graph(tmp_path), "service/queue.py", 1) == found[:1]
