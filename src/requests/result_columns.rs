//! The columns of results that a template uses.

use super::template::Template;
use super::variable::{ValueSource, shown};
use crate::api::RequestTemplate;

/// Returns the columns that a template uses, each as often as it does; `known` are those that there are.
///
/// # Errors
/// Names the field and its fault.
pub fn result_columns(template: &RequestTemplate, known: &[&str]) -> Result<Vec<String>, String> {
    let template = Template::parse(template, ValueSource::Rows)?;
    let columns: Vec<String> = template.variables().into_iter().map(|variable| variable.column().to_string()).collect();
    match columns.iter().find(|column| !known.contains(&column.as_str())) {
        None => Ok(columns),
        Some(column) => Err(format!(
            "`spec.input.template` uses the column {} of results, which have {}",
            shown(column),
            known.iter().map(|column| format!("`$(row.{column})`")).collect::<Vec<_>>().join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_results_do_not_have_are_named_with_those_that_they_have() {
        let columns = |id: &str, body: &str| {
            let template = RequestTemplate {
                custom_id: id.into(),
                body_json: Some(format!(r#"{{"messages": "{body}"}}"#)),
                ..Default::default()
            };
            result_columns(&template, &["custom_id", "answer", "request"])
        };
        let used = columns("$(row.custom_id)", "$(row.request.messages) $(row['answer']) $(row.request['a'].b:json)");
        assert_eq!(used.unwrap(), ["custom_id", "request", "answer", "request"]);
        for (body, column) in [("$(row.text)", "`text`"), ("$(row['no such'].answer)", "`no such`")] {
            assert_eq!(
                columns("a", body).unwrap_err(),
                format!(
                    "`spec.input.template` uses the column {column} of results, which have `$(row.custom_id)`, `$(row.answer)`, \
                     `$(row.request)`"
                )
            );
        }
        assert!(columns("a", "$(object.text)").unwrap_err().contains("`$(row.COLUMN)` is known"));
    }
}
