//! Schema fragments that a derive cannot express.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A JSON object whose content is the provider's business, not ours; its size is checked when the job is planned.
pub fn free_form(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Labels to match.
pub fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63, "description": "The label's value."}
    })
}

/// A number, or a percentage such as `2%`: Kubernetes' `int-or-string`.
pub fn count_or_percentage(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 0,
        "maximum": 1_000_000,
        "maxLength": 4,
        "pattern": "^(100|[0-9]{1,2})%$"
    })
}

/// `metav1.Condition` with the bounds that Kubernetes' own API markers give it.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One aspect of the object's state.",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316, "description": "Name of the condition in CamelCase."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "True, False or Unknown."},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0,
                    "description": "The metadata.generation that the condition was judged on."},
                "lastTransitionTime": {"type": "string", "format": "date-time",
                    "description": "When the status last went from one value to another."},
                "reason": {"type": "string", "minLength": 1, "maxLength": 128, "description": "Why, in one CamelCase word."},
                "message": {"type": "string", "maxLength": 2048, "description": "Why, and what to do, for a person."}
            }
        }
    })
}
