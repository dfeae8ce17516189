"""The form for a run's settings."""

from typing import Annotated, Any

from prefect.utilities.callables import parameter_schema

from fmnist.orchestration.form import SettingsForm
from fmnist.settings import sections


def shown(properties: dict[str, Any]) -> list[str]:
    """The names in the order in which Prefect's UI shows them, whatever order they are stored in."""
    return sorted(sorted(properties), key=lambda name: properties[name]["position"])


def test_every_section_has_a_plain_name_and_what_is_usually_changed_comes_first() -> None:
    """Training before the store, epochs before the slope; no section or field is left out."""

    def flow(settings: Annotated[Any, SettingsForm]) -> None:
        pass

    schema = parameter_schema(flow).model_dump()
    definitions, properties = schema["definitions"], schema["properties"]["settings"]["properties"]
    assert [properties[name]["title"] for name in shown(properties)] == [
        *("Training", "Gate", "Data", "Store", "Network", "Split")
    ]
    assert properties.keys() == sections().keys()
    for name, section in sections().items():
        of_section = definitions[section.__name__]
        assert of_section["title"] == properties[name]["title"]
        assert of_section["properties"].keys() == section.model_fields.keys()
    assert shown(definitions["TrainingSettings"]["properties"])[:2] == ["epochs", "seed"]
    assert shown(definitions["GateSettings"]["properties"])[:2] == ["min_accuracy", "champion"]
