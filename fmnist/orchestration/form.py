"""The form for a run's settings in Prefect's UI."""

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from fmnist.configure import all_settings
from fmnist.settings import Settings


class SettingsForm:
    """Annotates a flow's parameter with the settings' schema, as a form whose fields are optional.

    Prefect's UI fills each field in with its default and sends them all, which would override the
    worker's environment. So defaults, and bounds with them, are given in the descriptions instead.
    """

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        reference = handler(Settings.__pydantic_core_schema__)
        settings = {setting.name: setting for setting in all_settings()}
        for section, part in handler.resolve_ref_schema(reference)["properties"].items():
            part.pop("default", None)
            for name, field in handler.resolve_ref_schema(part)["properties"].items():
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
