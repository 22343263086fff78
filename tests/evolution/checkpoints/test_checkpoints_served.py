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

SINGLE, MIXED = 1, 3  # versions of toy/a: of class VitB, and the multipath one
ROOT_B, B = "VitB~root_model~checkpoint", "VitB~toy~a"
ROOT, MAIN, OTHER = "VitT3~root_model~random_init", "VitT3~toy~a", "VitT3~toy~b"


def test_the_gateway_answers_as_the_original_models(tmp_path):
    written = write_agents(tmp_path / "system")
    store = ModelStore(tmp_path / "store", create=True)
    import_state(written.directory, store, progress=lambda done, total: None)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "PNG")

    gateway = Gateway(store, str(tmp_path / "compilations"), max_batch_rows=1)
    try:
        answers = {
            version: gateway.classify("toy/a", picture.getvalue(), f"?top_k=3&version={version}")
            for version in (SINGLE, MIXED)
        }
    finally:
        gateway.close()

    single = model(written, *(f"{ROOT_B}:{i}" for i in (1, 2, 3, 4)), f"{B}:8", f"{B}:9")
    originals = {
        SINGLE: numpy_vit.logits(single, preprocess(pixels[None], 8)),
        MIXED: mixed_logits(written, pixels[None]),
    }
    for version, logits in originals.items():
        answer = answers[version].json()
        assert answer["version"] == version
        found = {p["index"]: p["probability"] for p in answer["predictions"]}
        (expected,) = numpy_vit.softmax(logits)
        np.testing.assert_allclose([found[i] for i in range(3)], expected, atol=1e-5)


def model(written, *keys):
    return {written.names[key]: written.trees[key] for key in keys}


def mixed_logits(written, images):
    """Of the multipath model, as it is defined (evolution/SYSTEMS.md, Mixing)."""
    shared = [f"{ROOT}:{i}" for i in (1, 3, 4)]
    main = model(written, *shared, f"{ROOT}:2", f"{MAIN}:7", f"{MAIN}:8")
    other = model(written, *shared, f"{OTHER}:7", f"{OTHER}:8")
    connector, router = (written.trees[f"MultiVitT3~toy~a:{i}"] for i in (11, 12))
    first = numpy_vit.logits(main, preprocess(images, 8))
    features = numpy_vit.features(other, preprocess(images, 12).astype(np.float64))
    second = numpy_vit.dense(features, connector["Dense_0"])
    scores = numpy_vit.dense(numpy_vit.norm(first, router["LayerNorm_0"]), router["Dense_0"])
    weights = numpy_vit.softmax(scores)
    return weights[:, :1] * first + weights[:, 1:] * second
