"""An imported system behind the gateway."""

import io

import numpy as np
from PIL import Image

from evolution.checkpoints import import_state
from model_store import ModelStore
from tests.evolution import numpy_vit
from tests.evolution.published_states import write_agents
from tests.service.in_process import Gateway
from vit import preprocess


def test_the_gateway_answers_as_the_original_model(tmp_path):
    """With the best single path; the multipath version, which it cannot run, fails alone."""
    written = write_agents(tmp_path / "system")
    store = ModelStore(tmp_path / "store", create=True)
    import_state(written.directory, store, progress=lambda done, total: None)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "PNG")

    gateway = Gateway(store, str(tmp_path / "compilations"), max_batch_rows=1)
    try:
        answer = gateway.classify("toy/a", picture.getvalue(), "?top_k=3").json()
        failed = gateway.classify("toy/a", picture.getvalue(), "?version=3")
        again = gateway.classify("toy/a", picture.getvalue(), "?top_k=3").json()
    finally:
        gateway.close()

    root, own = "VitB~root_model~checkpoint", "VitB~toy~a"
    keys = [*(f"{root}:{i}" for i in (1, 2, 3, 4)), f"{own}:8", f"{own}:9"]
    model = {written.names[key]: written.trees[key] for key in keys}
    (expected,) = numpy_vit.softmax(numpy_vit.logits(model, preprocess(pixels[None], 8)))
    found = {p["index"]: p["probability"] for p in answer["predictions"]}
    assert answer["version"] == 1  # of class VitB
    np.testing.assert_allclose([found[i] for i in range(3)], expected, atol=1e-5)
    assert failed.status_code == 503
    assert again["predictions"] == answer["predictions"]
