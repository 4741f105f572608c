//! What each handler form does beyond the cases of the contract.

#[macro_use]
mod replies;

mod actix;
mod axum;
mod http;
mod poem;
mod refusals;
mod rocket;
mod salvo;
mod tonic;
mod tower;
mod transaction_forms;
mod warp;
