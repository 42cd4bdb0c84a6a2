from __future__ import annotations

import pytest
import torch

from models import ModelError, WeightsError, create_model, fit, get_spec
from models.fit import check_fit, default_network


def misfit(name, state, **options):
    """The error for ``state`` in a network of this name and these options."""
    with torch.device("meta"):
        model = create_model(name, **options)
    with pytest.raises(WeightsError) as caught:
        check_fit(model, get_spec(name), state, "w.pth")
    return caught.value


def state_of(name, **options):
    with torch.device("meta"):
        return create_model(name, **options).state_dict()


def test_what_fits_raises_nothing():
    model = create_model("mobilenet_v3_small", num_classes=3)
    check_fit(model, get_spec("mobilenet_v3_small"), model.state_dict(), "w.pth")


def test_the_norms_counters_may_be_missing():
    model = create_model("mobilenet_v3_small")
    state = {name: tensor for name, tensor in model.state_dict().items() if "num_batches" not in name}
    check_fit(model, get_spec("mobilenet_v3_small"), state, "w.pth")


def test_other_classes():
    error = misfit("mobilenet_v3_small", state_of("mobilenet_v3_small", num_classes=10))
    assert error.what == "the weights in w.pth do not fit mobilenet_v3_small"
    assert error.fix == "They were trained for 10 classes: --num-classes 10"
    assert error.details == (
        "of another shape (2): classifier.3.weight 10x1024, the model has 1000x1024; "
        "classifier.3.bias 10, the model has 1000",
    )


def test_another_model():
    given = state_of("mobilenet_v3_small")
    error = misfit("mobilenet_v3_large", given)
    assert error.fix == "They are mobilenet_v3_small's: --model mobilenet_v3_small"
    names, others = ({n for n in s if "num_batches" not in n} for s in (state_of("mobilenet_v3_large"), given))
    assert f"missing ({len(names - others)})" in error.details[0]
    assert error.details[0].endswith("; …")
    assert f"unexpected ({len(others - names)})" in error.details[1]
    assert "features.2.block.0.0.weight 72x16x1x1, the model has 64x16x1x1" in error.details[2]


def test_other_options_and_classes():
    state = state_of("mobilenet_v3_small", num_classes=10, width_mult=0.75, reduced_tail=True)
    error = misfit("mobilenet_v3_large", state)
    options = "--option width_mult=0.75 --option reduced_tail=True"
    assert error.fix == f"They are mobilenet_v3_small's: --model mobilenet_v3_small {options} --num-classes 10"


def test_options_given_where_none_are_wanted():
    error = misfit("mobilenet_v3_small", state_of("mobilenet_v3_small"), width_mult=0.5)
    assert error.fix == "They are mobilenet_v3_small's: --model mobilenet_v3_small"


def test_the_advice_can_be_followed():
    state = state_of("mobilenet_v3_large", num_classes=7, width_mult=0.5)
    flags = misfit("mobilenet_v3_large", state).fix.split(": ", 1)[1].split()
    assert flags == ["--model", "mobilenet_v3_large", "--option", "width_mult=0.5", "--num-classes", "7"]
    with torch.device("meta"):
        model = create_model(flags[1], num_classes=int(flags[5]), width_mult=float(flags[3].split("=")[1]))
    check_fit(model, get_spec(flags[1]), state, "w.pth")


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_v2_xl", "effnetv2_s_256", "effnetv2_m_fused_se"])
@pytest.mark.parametrize("classes", [1000, 3])
def test_models_of_other_families(name, classes):
    fix = misfit("mobilenet_v3_small", state_of(name, num_classes=classes)).fix
    assert fix == f"They are {name}'s: --model {name}" + (" --num-classes 3" if classes == 3 else "")


def test_few_networks_are_made_to_compare_with(monkeypatch):
    """Making dozens of large ones takes many seconds: the number of parameters tells most apart."""
    made = []
    monkeypatch.setattr(fit, "default_network", lambda spec, **o: made.append(spec.name) or default_network(spec, **o))
    state = state_of("efficientnet_b3", num_classes=7)
    assert misfit("efficientnet_b0", state).fix.endswith("--model efficientnet_b3 --num-classes 7")
    assert made == ["efficientnet_b3"]


def test_weights_of_no_known_model():
    error = misfit("mobilenet_v3_small", {"a": torch.zeros(2), "classifier.3.weight": torch.zeros(())})
    assert error.fix is None
    assert "unexpected (1): a" in error.details
    assert "of another shape (1): classifier.3.weight scalar, the model has 1000x1024" in error.details


def test_one_missing_tensor():
    state = dict(state_of("mobilenet_v3_small"))
    del state["features.3.block.0.0.weight"]
    assert misfit("mobilenet_v3_small", state).details == ("missing (1): features.3.block.0.0.weight",)


def test_it_is_an_error_of_models():
    assert isinstance(misfit("mobilenet_v3_small", {}), ModelError)


def test_a_detector_of_another_size():
    assert misfit("yolov5m", state_of("yolov5s")).fix == "They are yolov5s's: --model yolov5s"


def test_a_detector_of_other_classes():
    error = misfit("yolov5s", state_of("yolov5s", num_classes=3))
    assert error.fix == "They were trained for 3 classes: --num-classes 3"
    assert error.details[0].startswith(
        "of another shape (6): model.24.m.0.weight 24x128x1x1, the model has 255x128x1x1; model.24.m.0.bias 24, "
    )


def test_a_detector_of_another_size_and_classes():
    given = state_of("yolov5s_efficientnetv2", num_classes=1)
    fix = "They are yolov5s_efficientnetv2's: --model yolov5s_efficientnetv2 --num-classes 1"
    assert misfit("yolov5s", given).fix == fix


def test_heads_that_disagree_are_of_no_model():
    given = dict(state_of("yolov5s", num_classes=3))
    given["model.24.m.1.weight"] = torch.zeros(255, 256, 1, 1)
    assert misfit("yolov5s", given).fix is None
