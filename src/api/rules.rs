//! CEL rules about changes of an object. They are made from lists of fields, so that all rules of one kind are the same
//! and no field is forgotten: `tests/crds/rules.rs` compares the lists with the schema.
//!
//! CEL has optional fields (`self.?a == oldSelf.?a`), but the API server takes their comparison for too expensive, so
//! the rules test fields that may be unset with `has`.

use kube::core::{Message, Rule};

/// Fields of an input that shape requests, with a `?` before those that may be unset.
const INPUT: [&str; 12] = [
    "?inline",
    "?configMaps",
    "?batchJobRef",
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
/// Fields that identify objects in object storage. Names of Secrets and authorities do not.
const OBJECT_STORE: [&str; 4] = ["uri", "?endpoint", "?region", "?addressingStyle"];

/// Requires the name of a BatchJob to fit into the value of a label.
pub fn name_of_a_label() -> Rule {
    Rule::new("self.metadata.name.size() <= 63").message("the name must be no more than 63 characters")
}

/// Requires the name of a CronBatchJob to leave 11 characters for the suffix of its BatchJobs' names.
pub fn name_of_a_schedule() -> Rule {
    Rule::new("self.metadata.name.size() <= 52")
        .message("the name must be no more than 52 characters, so that the names of its BatchJobs have no more than 63")
}

/// Forbids a BatchJob that takes its own results.
pub fn no_results_of_its_own() -> Rule {
    Rule::new("!has(self.spec.input.batchJobRef) || self.spec.input.batchJobRef.name != self.metadata.name")
        .message("`spec.input.batchJobRef` names the BatchJob itself; name another one")
        .field_path(".spec.input.batchJobRef.name")
}

/// Requires the variables in a field of a template to be known ones. Formats and offsets are judged when a BatchJob is made of the
/// template. `field` is a path below the template's `spec`, with a `?` before parts that may be unset and `[]` behind a list.
pub fn known_variables(field: &str) -> Rule {
    rule_about_variables(field, VARIABLES, "is known, and `$$(` is a literal `$(`")
}

/// Does the same for the URI of an output, which has variables of its BatchJob as well.
pub fn known_variables_of_output(field: &str) -> Rule {
    rule_about_variables(field, VARIABLES_OF_OUTPUT, "and `$(namespace)`, `$(name)` and `$(runID)` are known")
}

/// Texts whose variables are known ones, as a regular expression of RE2. `$$(` is a literal `$(`.
pub const VARIABLES: &str = r"^(?:[^$]|\$+[^$(]|\$\$+\(|\$\(scheduledTime(?::[^)]*)?\))*\$*$";
/// The same for the URI of an output, where `$$(` means nothing.
pub const VARIABLES_OF_OUTPUT: &str =
    r"^(?:[^$]|\$+[^$(]|\$\((?:namespace|name|runID|scheduledTime(?::[^)]*)?)\))*\$*$";

fn rule_about_variables(field: &str, texts: &str, known: &str) -> Rule {
    let name = field.replace('?', "");
    let message = format!(
        "`spec.jobTemplate.spec.{name}` has a variable that is not known, or one without its `)`: `$(scheduledTime)`, with a format \
         and an offset as in `$(scheduledTime:%Y/%m/%d:-1d)`, {known}"
    );
    Rule::new(has_known_variables("self.spec", field, texts)).message(Message::Message(message))
}

/// Returns the condition that the field at a path below `within` is a text of `texts`, if it is set.
fn has_known_variables(within: &str, path: &str, texts: &str) -> String {
    let (part, rest) = path.split_once('.').map_or((path, None), |(part, rest)| (part, Some(rest)));
    let (name, is_optional) = part.strip_prefix('?').map_or((part, false), |name| (name, true));
    let (name, is_list) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
    let value = format!("{within}.{name}");
    let rule = match rest {
        Some(rest) if is_list => format!("{value}.all(item, {})", has_known_variables("item", rest, texts)),
        Some(rest) => has_known_variables(&value, rest, texts),
        None => format!("{value}.matches(r'{texts}')"),
    };
    if is_optional { format!("(!has({value}) || {rule})") } else { rule }
}

/// Forbids changes of a field of a BatchJob's spec once the job has started. The message says to create another
/// BatchJob `instead`.
pub fn locked(field: &str, instead: &str) -> Rule {
    let name = field.trim_start_matches('?');
    Rule::new(unless_started(&same("spec.", field)))
        .message(Message::Message(format!(
            "`spec.{name}` may not be changed once the job has started; create another BatchJob {instead}"
        )))
        .field_path(format!(".spec.{name}"))
}

/// Forbids changes of a BatchJob's input once the job has started.
pub fn locked_input() -> Rule {
    let fields = INPUT.iter().map(|field| same("spec.input.", field));
    let fields = fields.chain([same_objects("spec.input."), same_results("spec.input.")]);
    Rule::new(unless_started(&format!("(\n  {}\n)", all(fields))))
        .message("`spec.input` may not be changed once the job has started; create another BatchJob instead")
        .field_path(".spec.input")
}

/// Forbids changes of the places that a BatchJob reuses answers of once it has started.
pub fn locked_reuse() -> Rule {
    let places = |spec: &str| {
        let fields = OBJECT_STORE.map(|field| {
            let name = format!("from.objectStore.{}", field.trim_start_matches('?'));
            if field.starts_with('?') { format!("has({name}) ? {name} : ''") } else { name }
        });
        format!("{spec}.reuseFrom.map(from, [{}])", fields.join(", "))
    };
    let (new, old) = ("has(self.spec.reuseFrom)", "has(oldSelf.spec.reuseFrom)");
    let same = format!("{} ==\n    {}", places("self.spec"), places("oldSelf.spec"));
    Rule::new(unless_started(&format!("({new} == {old} && (!{new} || {same}))")))
        .message("`spec.reuseFrom` may not be changed once the job has started; create another BatchJob instead")
        .field_path(".spec.reuseFrom")
}

/// Forbids changes of `spec.stopPolicy` once it is set, except from Drain to Cancel. A stop is for good.
pub fn stop_policy() -> Rule {
    let (new, old) = ("self.spec.stopPolicy", "oldSelf.spec.stopPolicy");
    Rule::new(format!("!has({old}) || has({new}) && {new} in [{old}, 'Cancel']"))
        .message(
            "`spec.stopPolicy` may not be changed once it is set, except from Drain to Cancel; to go on, create another BatchJob",
        )
        .field_path(".spec.stopPolicy")
}

/// Forbids any change of a BatchJob's output. It is a rule of the output itself.
pub fn fixed_output() -> Rule {
    let fields = ["compression", "partialResults", "includeRequests", "?configMap"].map(|field| same("", field));
    Rule::new(all(fields.into_iter().chain([same_objects("")])))
        .message("`spec.output` may not be changed; create another BatchJob to write elsewhere")
}

/// Forbids any change of a field of a provider's spec. `kind` is the kind of the provider.
pub fn fixed(field: &str, kind: &str) -> Rule {
    let name = field.trim_start_matches('?');
    Rule::new(same("spec.", field))
        .message(Message::Message(format!(
            "`spec.{name}` may not be changed, since batches may run there; create another {kind} instead"
        )))
        .field_path(format!(".spec.{name}"))
}

/// Returns a rule that applies from the moment at which the operator has begun to work on a job.
fn unless_started(rule: &str) -> String {
    format!("!has(oldSelf.status) || !has(oldSelf.status.lock) || {rule}")
}

fn all(rules: impl IntoIterator<Item = String>) -> String {
    rules.into_iter().collect::<Vec<_>>().join(" &&\n  ")
}

/// Returns the condition that a field has not changed.
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

/// Returns the condition that `results` identifies the same part of the same results as before.
fn same_results(within: &str) -> String {
    let (new, old) = (format!("self.{within}results"), format!("oldSelf.{within}results"));
    let within = format!("{within}results.");
    let (select, places) = (same(&within, "select"), places(&within));
    format!("has({new}) == has({old}) &&\n  (!has({new}) || (\n    {select} &&\n    {places}\n  ))")
}

/// Returns the condition that `objectStore` identifies the same objects as before.
fn same_objects(within: &str) -> String {
    let (new, old) = (format!("self.{within}objectStore"), format!("oldSelf.{within}objectStore"));
    let fields = places(within);
    format!("has({new}) == has({old}) &&\n  (!has({new}) || (\n    {fields}\n  ))")
}

/// Returns the condition that an `objectStore` that is set identifies the same objects as before.
fn places(within: &str) -> String {
    OBJECT_STORE.map(|field| same(&format!("{within}objectStore."), field)).join(" &&\n    ")
}
