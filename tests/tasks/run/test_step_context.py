"""Names that people gave are told from those that Prefect makes up."""

from prefect.utilities.names import generate_slug

from tasks.run.step_context import invented


def test_every_name_that_prefect_makes_up_is_known_as_such():
    assert all(invented(generate_slug(2)) for _ in range(500))


def test_names_that_people_give_are_not():
    assert not any(invented(name) for name in ("demo", "resnet18-images", "my-run-3", "drones", "prepare-images", ""))
