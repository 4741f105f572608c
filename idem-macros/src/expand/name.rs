//! The operation's name: where the user has to give one, and how it gets into the program's list of
//! operations.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::visit::Visit;
use syn::{GenericParam, TypeImplTrait};

use crate::args::Args;
use crate::form::Form;
use crate::item::Item;
use crate::mistakes::Mistakes;

/// The statements that declare the operation, and the expression of its name.
pub(super) fn declare(
    args: &Args,
    item: &Item,
    private: &TokenStream,
) -> (TokenStream, TokenStream) {
    let function = item.sig.ident.unraw().to_string();
    let name = match &args.name {
        Some(name) => name.to_token_stream(),
        None => quote!(::core::concat!(::core::module_path!(), "::", #function)),
    };
    // Items exist once, whatever the function is generic over, and whether or not it is called.
    let declaration = quote! {
        enum __IdemWithin {}
        static __IDEM_OPERATION: #private::DeclaredOperation = #private::DeclaredOperation::new(
            #name,
            #private::Location {
                module: ::core::module_path!(),
                function: #function,
                file: ::core::file!(),
                line: ::core::line!(),
                column: ::core::column!(),
            },
            ::core::any::type_name::<__IdemWithin>,
        );
        #private::register_operation! { __IDEM_OPERATION }
    };
    (
        declaration,
        quote!(__IDEM_OPERATION.name().map_err(#private::Error::NameTaken)),
    )
}

/// Methods, associated functions and generic functions need a name: the one that is derived from module
/// and function may belong to another one, too.
pub(super) fn check(
    form: Form,
    args: &Args,
    written: &TokenStream,
    item: &Item,
    mistakes: &mut Mistakes,
) {
    if args.name.is_some() {
        return;
    }
    let function = item.sig.ident.unraw();
    let give = format!("write a name of its own, such as `name = \"charges.{function}\"`");
    let of_type = |what: &str| {
        format!(
            "{what} needs a `name`: another type of its module may have a function `{function}`, and the two would share records, each call being given what the other one did; {give}"
        )
    };
    if let Some(receiver) = item.sig.receiver() {
        // A handler with `self` is a mistake of its own.
        if matches!(form, Form::Function | Form::Tonic) {
            mistakes.at(receiver, of_type("a method"));
        }
    } else if let Some(self_type) = self_type(written, item) {
        mistakes.at(&self_type, of_type("an associated function"));
    } else if let Some(parameter) = type_parameter(item).filter(|_| form != Form::Salvo) {
        mistakes.at(
            &parameter,
            format!(
                "a generic function needs a `name`: it is one operation for all types, and their calls share records; {give}, and let the `key` or the `scope` tell the types apart"
            ),
        );
    }
}

/// The `Self` that the function or its attribute names, if it does: it is an associated function then.
fn self_type(written: &TokenStream, item: &Item) -> Option<Ident> {
    let (signature, body) = (item.sig.to_token_stream(), item.body.stream());
    let outside = [&signature, written];
    let outside = outside.into_iter().find_map(|it| find(it, &["Self"]));
    outside.or_else(|| {
        // Where the body declares a type, `Self` may be that one.
        let declares = find(
            &body,
            &["impl", "trait", "struct", "enum", "union", "macro_rules"],
        );
        find(&body, &["Self"]).filter(|_| declares.is_none())
    })
}

/// The first of these words, at any depth.
fn find(tokens: &TokenStream, words: &[&str]) -> Option<Ident> {
    tokens.clone().into_iter().find_map(|token| match token {
        TokenTree::Ident(word) => words.iter().any(|it| word == it).then_some(word),
        TokenTree::Group(group) => find(&group.stream(), words),
        _ => None,
    })
}

/// What makes a function generic: a type or constant parameter, or an `impl Trait` argument.
fn type_parameter(item: &Item) -> Option<TokenStream> {
    struct ImplTrait(Option<TokenStream>);
    impl Visit<'_> for ImplTrait {
        fn visit_type_impl_trait(&mut self, ty: &TypeImplTrait) {
            self.0.get_or_insert_with(|| ty.to_token_stream());
        }
    }
    let named = item.sig.generics.params.iter();
    let named = named.filter(|it| !matches!(it, GenericParam::Lifetime(_)));
    named.map(ToTokens::to_token_stream).next().or_else(|| {
        let mut unnamed = ImplTrait(None);
        let arguments = item.arguments();
        arguments.for_each(|argument| unnamed.visit_type(&argument.ty));
        unnamed.0
    })
}
