"""The form for a run's settings in Prefect's UI."""

from collections.abc import Iterable
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from fmnist.configure import all_settings
from fmnist.settings import Settings

# The sections by their titles, and the fields that come first in them: what people usually change.
_TITLES = {
    "training": "Training",
    "gate": "Gate",
    "data": "Data",
    "store": "Store",
    "model": "Network",
    "split": "Split",
}
_FIRST_FIELDS = ("epochs", "seed", "min_accuracy", "champion")


class SettingsForm:
    """Annotates a flow's parameter with the settings' schema, as a form whose fields are optional.

    Prefect's UI fills each field in with its default and sends them all, which would override the
    worker's environment. So defaults, and bounds with them, are given in the descriptions instead.
    What is usually changed comes first.
    """

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        reference = handler(Settings.__pydantic_core_schema__)
        settings = {setting.name: setting for setting in all_settings()}
        tree = handler.resolve_ref_schema(reference)
        tree["properties"] = _ordered(tree["properties"], _TITLES)
        for section, part in tree["properties"].items():
            part.pop("default", None)
            fields = handler.resolve_ref_schema(part)
            part["title"] = fields["title"] = _TITLES.get(section, section.capitalize())
            fields["properties"] = _ordered(fields["properties"], _FIRST_FIELDS)
            for name, field in fields["properties"].items():
                field.pop("default", None)
                if field.get("type") == "boolean":
                    # A switch cannot be left empty: it would be sent as off.
                    del field["type"]
                    field["enum"] = [True, False]
                setting = settings[f"{section}.{name}"]
                # In the form a list has a field for each value.
                allowed = setting.allowed.replace(", comma-separated", "")
                field["description"] = f"{setting.meaning} ({allowed}; default: {setting.default})"
        return reference


def _ordered(properties: dict[str, Any], first: Iterable[str]) -> dict[str, Any]:
    """The same properties, those named in `first` before the others.

    The positions say so too, since PostgreSQL keeps no order of names.
    """
    ordered = {name: properties[name] for name in first if name in properties} | properties
    return {name: {**ordered[name], "position": place} for place, name in enumerate(ordered)}
