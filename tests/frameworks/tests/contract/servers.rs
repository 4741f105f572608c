//! One small server for each framework, with the same routes. What they do is in
//! [`crate::app`].

pub(crate) mod actix;
pub(crate) mod axum;
pub(crate) mod hyper;
pub(crate) mod poem;
pub(crate) mod rocket;
pub(crate) mod salvo;
pub(crate) mod tower;
pub(crate) mod warp;
