"""The rooms of each package, and which room may import which; test_architecture.py enforces it.

A package has a core: the files at its top, and a few folders that are the core's own rooms. Every
other folder is a ring: an option, which one can delete, and what is left still works. So the core
imports no ring. A file that puts the program together (ASSEMBLY) imports core and rings.
"""

# Package -> its core's rooms; then room -> the rooms of the package that it may import. The room
# "" is the package's top.
CORE = {
    "vit": ["", "pictures"],
    "model_store": ["", "files"],
    "evolution": ["", "experiments", "training", "data", "roots", "process"],
    "service": ["", "access", "metrics", "tasks", "compute", "compute/backends", "http"],
    "loadtests": [""],
}
ROOMS = {
    "vit": {
        "": ["pictures"],
        "pictures": [],
    },
    "model_store": {
        "": ["files"],
        "files": [""],
        "cli": ["", "exchange", "upkeep"],
        "exchange": ["", "files"],
        "upkeep": ["", "exchange", "files"],
    },
    "evolution": {
        "": ["experiments", "training", "data", "process"],
        "experiments": [""],
        "training": ["", "experiments", "data"],
        "data": ["experiments", "training"],
        "roots": ["", "training", "data"],
        "process": ["", "training"],
        "adopting": ["training", "data", "agents", "runs"],
        "agents": ["", "experiments", "training", "data", "roots", "process", "multipath", "runs"],
        "checkpoints": ["", "experiments", "training", "data", "multipath"],
        "growing": [
            "",
            "experiments",
            "training",
            "data",
            "roots",
            "process",
            "agents",
            "multipath",
            "runs",
        ],
        "multipath": ["", "experiments", "training", "data"],
        "reports": ["", "experiments", "training", "data", "roots", "process"],
        "runs": ["", "training", "data", "process"],
    },
    "service": {
        "": ["access", "compute"],
        "access": [""],
        "metrics": [""],
        "tasks": ["", "access", "compute", "metrics"],
        "compute": ["", "compute/backends", "metrics"],
        "compute/backends": ["", "compute"],
        "http": ["", "access", "tasks"],
        "bulk": ["", "client", "compute", "metrics", "tasks"],
        "client": [],
        "host": ["", "http"],
        "open_inference": ["", "access", "compute", "http", "tasks", "telemetry"],
        "page": ["", "access", "http", "metrics", "tasks"],
        "samples": ["", "compute"],
        "telemetry": ["", "compute", "http", "metrics"],
    },
    "loadtests": {
        "": [],
        "agents": [""],
        "engine": ["", "peers/apps"],
        "gpu": [],
        "growth": [""],
        "flood": [""],
        "noop": [""],
        "noop/peers": [],
        "peers": [""],
        "peers/apps": [],
        "replicas": [""],
        "rollouts": ["", "peers"],
        "store": [""],
    },
}
# Files that put a program together out of core and rings.
ASSEMBLY = {
    "evolution/__main__.py",
    "loadtests/command.py",
    "model_store/__main__.py",
    "service/app.py",
    "service/http/openapi.py",
    "service/host/beginning.py",
    "service/host/gateway.py",
    "service/host/worker.py",
    "service/runtime.py",
}
# Arrows that are still against the rule: (from, to). An arrow that is gone must go from here too.
STILL: dict[str, list[tuple[str, str]]] = {}
# File -> why it imports our own packages inside functions.
STARTS_FAST = "a command line: help, completion and mistakes must not wait for JAX"
LATE_IMPORTS = {
    "evolution/__main__.py": STARTS_FAST,
    "evolution/adopting/command.py": STARTS_FAST,
    "evolution/adopting/export_command.py": STARTS_FAST,
    "evolution/agents/command.py": "Ray is an extra that few have installed",
    "evolution/data/command.py": STARTS_FAST,
    "evolution/data/prepared.py": STARTS_FAST,
    "evolution/growing/command.py": STARTS_FAST,
    "evolution/runs/command.py": STARTS_FAST,
    "loadtests/command.py": STARTS_FAST,
    "loadtests/engine/peers.py": "a process that makes networks for other libraries holds torch",
    "loadtests/gpu/__main__.py": "the report is drawn where there is no GPU",
    "model_store/files/opening.py": "obstore takes 10 ms and 4.5 MB, which a local store spares",
    "model_store/arrays.py": "only who asks for arrays needs NumPy",
    "service/bulk/command.py": STARTS_FAST,
    "service/runtime.py": "pyarrow takes 45 MB: it is loaded where samples are kept",
    "service/app.py": "gRPC takes memory: it is loaded where its port is set",
    "service/compute/backends/choice.py": "OpenVINO is an extra: only the library chosen is loaded",
}
# File -> why importing it does something. Outside service/host/, where that is the subject.
WORK_AT_IMPORT = {
    "evolution/__main__.py": "mounts commands of other files",
    "evolution/checkpoints/tables.py": "the CSV reader's limit is one of the process",
    "evolution/data/tables.py": "the CSV reader's limit is one of the process",
    "model_store/cli/app.py": "mounts the commands of its folder",
    "service/compute/backends/openvino_library.py": "no telemetry, set before the library loads",
    "service/open_inference/grpc_core.py": "gRPC's log, set before the library loads",
    "service/open_inference/inference_pb2.py": "generated",
}
# Circles of files that are still there.
CIRCLES: dict[str, list[list[str]]] = {}
