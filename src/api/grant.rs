//! The namespaces that an admin lets use an account.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use kube::core::{Selector, SelectorExt};
use serde::{Deserialize, Serialize};

use super::{ClusterBatchProviderSpec, schema};

/// Namespaces, chosen by name or by label.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.names) != has(self.namespaceSelector)")
        .message("set exactly one of `names` and `namespaceSelector`")
)]
pub struct NamespaceGrant {
    /// Names of namespaces; at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub names: Vec<String>,
    /// Selector of namespaces by their labels, as in a NetworkPolicy: `matchLabels` and `matchExpressions` have to match
    /// both, and an empty selector (`{}`) selects every namespace. Whoever may edit a namespace may set its labels, all but
    /// `kubernetes.io/metadata.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
}

impl ClusterBatchProviderSpec {
    /// Returns whether jobs of the namespace with this name and these labels may use the account.
    pub fn grants(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.namespaces.iter().any(|grant| {
            grant.names.iter().any(|name| name == namespace)
                || grant.namespace_selector.as_ref().is_some_and(|selector| selects(selector, labels))
        })
    }
}

/// Returns whether a selector selects these labels. A selector that the schema refuses selects nothing.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let is_sound = selector.match_expressions.iter().flatten().all(|expression| {
        let has_values = expression.values.as_ref().is_some_and(|values| !values.is_empty());
        has_values == matches!(expression.operator.as_str(), "In" | "NotIn")
    });
    is_sound && Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn provider(grants: Value) -> ClusterBatchProviderSpec {
        serde_json::from_value(json!({"type": "OpenAI", "namespaces": grants})).unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_grant_names_namespaces_or_selects_them() {
        let (ml, none) = (labels(&[("team", "ml")]), labels(&[]));
        let names = json!({"names": ["shop"]});
        let of_ml = json!({"namespaceSelector": {"matchLabels": {"team": "ml"}}});
        assert!(provider(json!([names])).grants("shop", &none));
        assert!(!provider(json!([names])).grants("other", &ml));
        assert!(provider(json!([names, of_ml])).grants("other", &ml));
        assert!(!provider(json!([of_ml])).grants("other", &none));
        assert!(!provider(json!([])).grants("other", &ml) && !provider(json!([{}])).grants("other", &ml));
        assert!(provider(json!([{"namespaceSelector": {}}])).grants("other", &none), "an empty selector selects all");
    }

    /// A field of an earlier version is not a selector, least of all one that selects everything.
    #[test]
    fn what_the_schema_does_not_let_in_grants_nothing() {
        let expression = |operator: &str, values: Value| json!({"key": "team", "operator": operator, "values": values});
        for expression in [
            expression("In", json!([])),
            expression("NotIn", json!([])),
            expression("NotIn", Value::Null),
            expression("Exists", json!(["ml"])),
            expression("DoesNotExist", json!(["ops"])),
            expression("Near", json!(["ml"])),
        ] {
            let grants = json!([{"namespaceSelector": {"matchExpressions": [expression]}}]);
            for of in [&[][..], &[("team", "ml")], &[("team", "ops")]] {
                assert!(!provider(grants.clone()).grants("any", &labels(of)), "{expression}");
            }
        }
        assert!(
            !provider(json!([{"selector": {"matchLabels": {"team": "ml"}}}])).grants("a", &labels(&[("team", "ml")]))
        );
    }

    fn key() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "example.com/c"]).prop_map(String::from)
    }

    fn value() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["", "x", "y", "z"]).prop_map(String::from)
    }

    fn pairs() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map(key(), value(), 0..4)
    }

    fn expression() -> impl Strategy<Value = LabelSelectorRequirement> {
        let some = prop::collection::vec(value(), 1..4).prop_map(Some);
        let values = (prop::sample::select(vec!["In", "NotIn"]), some);
        let presence =
            (prop::sample::select(vec!["Exists", "DoesNotExist"]), prop::sample::select(vec![None, Some(vec![])]));
        (key(), prop_oneof![values, presence]).prop_map(|(key, (operator, values))| LabelSelectorRequirement {
            key,
            operator: operator.into(),
            values,
        })
    }

    /// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#resources-that-support-set-based-requirements>,
    /// sentence by sentence.
    fn is_selected(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
        for (key, value) in selector.match_labels.iter().flatten() {
            if !labels.iter().any(|label| label == (key, value)) {
                return false;
            }
        }
        for LabelSelectorRequirement { key, operator, values } in selector.match_expressions.iter().flatten() {
            let found: Vec<&String> = labels.iter().filter(|(of, _)| *of == key).map(|(_, value)| value).collect();
            let listed = found.iter().any(|value| values.iter().flatten().any(|wanted| wanted == *value));
            let holds = match operator.as_str() {
                "In" => !found.is_empty() && listed,
                "NotIn" => found.is_empty() || !listed,
                "Exists" => !found.is_empty(),
                "DoesNotExist" => found.is_empty(),
                other => panic!("{other}"),
            };
            if !holds {
                return false;
            }
        }
        true
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_selector_selects_what_kubernetes_selects(
            match_labels in prop::option::of(pairs()),
            match_expressions in prop::option::of(prop::collection::vec(expression(), 0..3)),
            labels in pairs(),
        ) {
            let selector = LabelSelector { match_labels, match_expressions };
            prop_assert_eq!(selects(&selector, &labels), is_selected(&selector, &labels));
        }
    }
}
