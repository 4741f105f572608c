//! When each argument of a handler is extracted. The name of its type decides, and whether the
//! attribute's expressions name it.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::visit::Visit;
use syn::{Expr, GenericArgument, Lifetime, PatType, PathArguments, Type};

use super::expression::engine;
use crate::args::{Args, KeySource, Time};
use crate::form::Form;
use crate::item::{bound_names, mentions};

/// A handler's extractors by the time at which they run.
#[derive(Default)]
pub(super) struct Extractors<'a> {
    /// Before everything else: they read the request's head.
    pub(super) first: Vec<&'a PatType>,
    /// After the request's body is read, before the claim.
    pub(super) early: Option<&'a PatType>,
    /// When the handler will run.
    pub(super) late: Option<&'a PatType>,
    /// The engine whose settings apply while the request is read for the early extractor. `None` in the
    /// generated code if the attribute makes the engine from what that extractor binds.
    pub(super) early_engine: TokenStream,
}

impl<'a> Extractors<'a> {
    pub(super) fn of(
        form: Form,
        args: &Args,
        arguments: &[&'a PatType],
        support: &TokenStream,
    ) -> Self {
        let Some((last, first)) = arguments.split_last() else {
            return Self::default();
        };
        let mut extractors = Self {
            first: first.to_vec(),
            ..Self::default()
        };
        match When::of(form, args, last) {
            When::First => extractors.first.push(last),
            When::Early => {
                extractors.early = Some(last);
                extractors.early_engine = match &args.engine {
                    Some(given) if !names(given, last) => engine(args, support),
                    _ => quote!(::core::option::Option::None),
                };
            }
            When::Late => extractors.late = Some(last),
        }
        extractors
    }

    /// The last argument, if the framework does not extract it.
    pub(super) fn last(&self) -> Option<&'a PatType> {
        self.early.or(self.late)
    }
}

/// When an extractor runs.
enum When {
    First,
    Early,
    Late,
}

impl When {
    fn of(form: Form, args: &Args, last: &PatType) -> Self {
        // The generated code runs every extractor of these, and so can run the last one first.
        let runs_all = matches!(form, Form::Poem | Form::Salvo);
        if runs_all && reads_head(&last.ty) {
            Self::First
        } else if expressions(args).any(|expr| names(expr, last)) {
            Self::Early
        } else if form == Form::Salvo && borrows(&last.ty) {
            // Nothing else can have the request before the handler is done with it.
            Self::Late
        } else if (runs_all || form == Form::Actix) && !reads_body(&last.ty) {
            // It may be what authenticates.
            Self::Early
        } else {
            Self::Late
        }
    }
}

/// The attribute's expressions that are evaluated before the claim.
pub(super) fn expressions(args: &Args) -> impl Iterator<Item = &Expr> {
    let key = match &args.key {
        Some(KeySource::Expr(key)) => Some(key),
        _ => None,
    };
    let times = [&args.ttl, &args.lease].into_iter().flatten();
    let times = times.filter_map(|time| match time {
        Time::Expr(time) => Some(time),
        Time::Literal(_) => None,
    });
    key.into_iter()
        .chain(times)
        .chain(&args.scope)
        .chain(&args.engine)
        .chain(&args.transaction)
        .chain(args.fingerprint.iter().flatten())
}

/// Whether an expression names something that the argument binds.
pub(super) fn names(expr: &Expr, argument: &PatType) -> bool {
    mentions(&expr.to_token_stream(), &bound_names(&argument.pat))
}

/// Extractors of poem and salvo that are known to read no more than the head.
const HEAD_READERS: [&str; 14] = [
    "Accept",
    "CookieJar",
    "CookieParam",
    "Data",
    "HeaderParam",
    "Method",
    "Path",
    "PathParam",
    "Query",
    "QueryParam",
    "RealIp",
    "Session",
    "TypedHeader",
    "Version",
];

fn reads_head(ty: &Type) -> bool {
    match ty {
        Type::Reference(_) => true,
        Type::Path(path) => path
            .path
            .segments
            .last()
            .is_some_and(|last| HEAD_READERS.iter().any(|known| last.ident == known)),
        _ => false,
    }
}

/// The extractors of any framework that are known to read the body.
pub(super) const BODY_READERS: [&str; 20] = [
    "Body",
    "Bytes",
    "BytesMut",
    "Either",
    "Form",
    "FormBody",
    "FormFile",
    "FormFiles",
    "Json",
    "JsonBody",
    "Multipart",
    "MultipartForm",
    "Payload",
    "Protobuf",
    "String",
    "TempFile",
    "TypedMultipart",
    "Vec",
    "Xml",
    "Yaml",
];

fn reads_body(ty: &Type) -> bool {
    is_one_of(ty, &BODY_READERS)
}

/// Whether a type has one of these names. `Option<Json<T>>` and `Result<Json<T>, E>` read as `Json<T>`
/// does.
pub(super) fn is_one_of(ty: &Type, readers: &[&str]) -> bool {
    let Type::Path(path) = ty else {
        return false;
    };
    let Some(last) = path.path.segments.last() else {
        return false;
    };
    if last.ident != "Option" && last.ident != "Result" {
        return readers.iter().any(|known| last.ident == known);
    }
    match &last.arguments {
        PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
            Some(GenericArgument::Type(inner)) => is_one_of(inner, readers),
            _ => false,
        },
        _ => false,
    }
}

/// Whether a type says that it borrows, as `Order<'_>` does.
fn borrows(ty: &Type) -> bool {
    struct Borrows(bool);
    impl Visit<'_> for Borrows {
        fn visit_lifetime(&mut self, lifetime: &Lifetime) {
            self.0 |= lifetime.ident != "static";
        }
    }
    let mut borrows = Borrows(false);
    borrows.visit_type(ty);
    borrows.0
}
