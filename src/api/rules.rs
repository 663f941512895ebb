//! Rules in CEL about changes of an object. They are made of lists of fields, so that all rules of one kind say the same and no
//! field is forgotten: `tests/crds.rs` compares the lists with the schema.
//!
//! CEL has optional fields (`self.?a == oldSelf.?a`), whose comparison the API server takes for too expensive: a field that may be
//! unset is asked for with `has`.

use kube::core::{Message, Rule};

/// Fields of an input that shape requests; a `?` stands before those that may be unset.
const INPUT: [&str; 11] = [
    "?inline",
    "?configMaps",
    "format",
    "?csv",
    "compression",
    "emptyPolicy",
    "?template",
    "?maxObjectBytes",
    "?onTooLarge",
    "hiddenObjects",
    "emptyObjects",
];
/// Fields that say which objects are meant in object storage. Names of Secrets and authorities do not.
const OBJECT_STORE: [&str; 4] = ["uri", "?endpoint", "?region", "?addressingStyle"];

/// The name of a BatchJob fits into the value of a label.
pub fn name_of_a_label() -> Rule {
    Rule::new("self.metadata.name.size() <= 63").message("the name must be no more than 63 characters")
}

/// A field of a BatchJob's spec may not be changed once the job has started; another BatchJob is created `instead`.
pub fn locked(field: &str, instead: &str) -> Rule {
    let name = field.trim_start_matches('?');
    Rule::new(unless_started(&same("spec.", field)))
        .message(Message::Message(format!(
            "`spec.{name}` may not be changed once the job has started; create another BatchJob {instead}"
        )))
        .field_path(format!(".spec.{name}"))
}

/// The input of a BatchJob may not be changed once the job has started.
pub fn locked_input() -> Rule {
    let fields = INPUT.iter().map(|field| same("spec.input.", field)).chain([same_objects("spec.input.")]);
    Rule::new(unless_started(&format!("(\n  {}\n)", all(fields))))
        .message("`spec.input` may not be changed once the job has started; create another BatchJob instead")
        .field_path(".spec.input")
}

/// The output of a BatchJob may never be changed. A rule of the output itself.
pub fn fixed_output() -> Rule {
    Rule::new(all([same("", "compression"), same("", "?configMap"), same_objects("")]))
        .message("`spec.output` may not be changed; create another BatchJob to write elsewhere")
}

/// A field of a provider's spec may never be changed; `kind` is the kind of the provider.
pub fn fixed(field: &str, kind: &str) -> Rule {
    let name = field.trim_start_matches('?');
    Rule::new(same("spec.", field))
        .message(Message::Message(format!(
            "`spec.{name}` may not be changed, since batches may run there; create another {kind} instead"
        )))
        .field_path(format!(".spec.{name}"))
}

/// A rule that holds as long as the operator has not begun to work on a job.
fn unless_started(rule: &str) -> String {
    format!("!has(oldSelf.status) || !has(oldSelf.status.lock) || {rule}")
}

fn all(rules: impl IntoIterator<Item = String>) -> String {
    rules.into_iter().collect::<Vec<_>>().join(" &&\n  ")
}

/// A field is as it was.
fn same(within: &str, field: &str) -> String {
    let of = |field: &str| (format!("self.{within}{field}"), format!("oldSelf.{within}{field}"));
    match field.strip_prefix('?') {
        Some(field) => {
            let (new, old) = of(field);
            format!("has({new}) == has({old}) && (!has({new}) || {new} == {old})")
        }
        None => {
            let (new, old) = of(field);
            format!("{new} == {old}")
        }
    }
}

/// `objectStore` names the same objects as it did.
fn same_objects(within: &str) -> String {
    let (new, old) = (format!("self.{within}objectStore"), format!("oldSelf.{within}objectStore"));
    let fields = OBJECT_STORE.map(|field| same(&format!("{within}objectStore."), field)).join(" &&\n    ");
    format!("has({new}) == has({old}) &&\n  (!has({new}) || (\n    {fields}\n  ))")
}
