"""A form shows the fields of a model in the order of its body, and inherited ones where their class has them."""

from tasks.base.params import Params


class Base(Params):
    rate: float
    momentum: float = 0.9
    epochs: int
    seed: int = 0


class Own(Base):
    model: str = "small"
    epochs: int = 5
    rate: float = 0.1
    size: int = 8


def test_inherited_fields_follow_the_field_that_they_follow_in_their_class():
    fields = Own.model_json_schema()["properties"]
    assert list(fields) == ["model", "epochs", "seed", "rate", "momentum", "size"]
    assert [field["position"] for field in fields.values()] == list(range(6))


def test_a_class_that_inherits_all_has_the_order_of_its_parent():
    assert list(type("Same", (Base,), {}).model_json_schema()["properties"]) == ["rate", "momentum", "epochs", "seed"]
