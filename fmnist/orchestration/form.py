"""The form that Prefect's UI shows for the settings of a run."""

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from fmnist.configure import all_settings
from fmnist.settings import Settings


class SettingsForm:
    """Gives a flow's parameter the settings' schema, as a form whose fields may all stay empty.

    Prefect's UI fills fields in with their defaults and sends all of them, which would override the
    worker's environment. So the defaults go into the descriptions, and the bounds with them.
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
                    # As a switch it could not be left alone, and would be sent as off.
                    del field["type"]
                    field["enum"] = [True, False]
                setting = settings[f"{section}.{name}"]
                allowed = setting.allowed.replace("comma-separated", "values")
                field["description"] = f"{setting.meaning} ({allowed}; default: {setting.default})"
        return reference
