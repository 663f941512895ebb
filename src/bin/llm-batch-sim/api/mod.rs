//! What can be asked over HTTP.

mod admin;
mod batches;
mod error;
mod files;
mod gate;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::rejection::QueryRejection;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, post};
use http::{Method, Uri};
use serde::Deserialize;

use crate::app::Shared;
use crate::faults::Point;
use crate::table::{Order, Page, Table};
use crate::vendor::Vendor;
use crate::wire::List;
use error::ApiError;

/// The whole server.
pub fn router(app: Shared) -> Router {
    Router::new()
        .nest("/v1", vendor(&app, Vendor::OpenAi))
        .nest("/openai/v1", vendor(&app, Vendor::Azure))
        .nest("/openai", vendor(&app, Vendor::Azure).layer(from_fn(gate::version)))
        .nest("/admin", admin::router())
        .fallback(unknown_url)
        .method_not_allowed_fallback(unknown_url)
        .with_state(app)
}

/// A vendor's API, behind keys and faults.
fn vendor(app: &Shared, vendor: Vendor) -> Router<Shared> {
    let at = |point: Point, route: MethodRouter<Shared>| {
        route.route_layer(from_fn_with_state((app.clone(), point), gate::faults))
    };
    let files = at(Point::Upload, post(files::upload).layer(DefaultBodyLimit::disable()))
        .merge(at(Point::ListFiles, get(files::list)));
    let file = at(Point::GetFile, get(files::get)).merge(at(Point::DeleteFile, delete(files::delete)));
    let batches = at(Point::CreateBatch, post(batches::create)).merge(at(Point::ListBatches, get(batches::list)));
    Router::new()
        .route("/files", files)
        .route("/files/{id}", file)
        .route("/files/{id}/content", at(Point::Content, get(files::content)))
        .route("/models", get(files::models))
        .route("/batches", batches)
        .route("/batches/{id}", at(Point::GetBatch, get(batches::get)))
        .route("/batches/{id}/cancel", at(Point::CancelBatch, post(batches::cancel)))
        .layer(from_fn_with_state((app.clone(), vendor), gate::account))
        .layer(from_fn(gate::request_id))
        .layer(from_fn_with_state(vendor, gate::spelled))
}

async fn unknown_url(method: Method, uri: Uri) -> ApiError {
    ApiError::not_found(format!("Invalid URL ({method} {})", uri.path()))
}

/// Which part of a list is asked for.
#[derive(Debug, Deserialize)]
pub struct Paging {
    after: Option<String>,
    limit: Option<usize>,
    order: Option<String>,
    purpose: Option<String>,
}

impl Paging {
    /// How many elements are wanted, if that is from 1 to `most`.
    fn limit(&self, usual: usize, most: usize) -> Result<usize, ApiError> {
        match self.limit.unwrap_or(usual) {
            limit if (1..=most).contains(&limit) => Ok(limit),
            limit => Err(ApiError::invalid(format!("Invalid 'limit': {limit}. Expected a value from 1 to {most}."))
                .param("limit")),
        }
    }

    fn order(&self) -> Result<Order, ApiError> {
        match self.order.as_deref() {
            None | Some("desc") => Ok(Order::Descending),
            Some("asc") => Ok(Order::Ascending),
            Some(_) => Err(ApiError::invalid("Invalid 'order': expected 'asc' or 'desc'.").param("order")),
        }
    }

    /// The part of a table that is asked for.
    fn page<'a, T>(
        &self,
        table: &'a Table<T>,
        limit: usize,
        keep: impl Fn(&T) -> bool,
    ) -> Result<Page<'a, T>, ApiError> {
        table
            .page(self.order()?, self.after.as_deref(), limit, keep)
            .ok_or_else(|| ApiError::invalid("Invalid 'after': there is no such element in this list.").param("after"))
    }
}

/// A query string that cannot be read, in the API's words.
fn bad_query(rejection: &QueryRejection) -> ApiError {
    ApiError::invalid(rejection.body_text())
}

/// A page as the API shows it.
fn list<T, U>(page: Page<'_, T>, show: impl Fn(&T) -> U, id: impl Fn(&T) -> &String) -> List<U> {
    List {
        object: "list",
        first_id: page.rows.first().map(|row| id(row).clone()),
        last_id: page.rows.last().map(|row| id(row).clone()),
        data: page.rows.iter().map(|row| show(row)).collect(),
        has_more: page.has_more,
    }
}
