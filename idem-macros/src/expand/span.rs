//! Where the compiler shows an error in generated code.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream};
use quote::ToTokens;

/// A part of what the user wrote. Generated code is moved there, so that its errors are shown there.
#[derive(Clone, Copy)]
pub(super) struct SpanRange {
    start: Span,
    end: Span,
}

impl SpanRange {
    /// From the first to the last token.
    pub(super) fn of(written: &impl ToTokens) -> Self {
        let mut tokens = written.to_token_stream().into_iter();
        let first = tokens.next().map_or_else(Span::call_site, |it| it.span());
        let last = tokens.last().map_or(first, |it| it.span());
        Self {
            start: first,
            end: last,
        }
    }

    /// The first token only. The compiler checks the bounds of an awaited call twice, at the call and
    /// at the `await`. It reports them once if both have the same span.
    pub(super) fn start_of(written: &impl ToTokens) -> Self {
        let Self { start, .. } = Self::of(written);
        Self { start, end: start }
    }

    /// Moves generated tokens into this range. Names keep the scope in which they were made.
    pub(super) fn locate(self, tokens: TokenStream) -> TokenStream {
        let mut span = self.start;
        tokens
            .into_iter()
            .map(|mut token| {
                token.set_span(token.span().located_at(span));
                span = self.end;
                token
            })
            .collect()
    }

    /// Tokens in parentheses that lie in this range.
    pub(super) fn parenthesize(self, tokens: &impl ToTokens) -> TokenStream {
        let mut group = Group::new(Delimiter::Parenthesis, tokens.to_token_stream());
        // The same scope as the generated tokens before it, so that rustc can join the spans.
        group.set_span(Span::call_site().located_at(self.end));
        group.to_token_stream()
    }
}

/// A span for generated names: the user's code cannot see them, and their errors are shown at `span`.
pub(super) fn mixed_site_at(span: Span) -> Span {
    Span::mixed_site().located_at(span)
}

/// A local variable of the generated code, which the user's code cannot see.
pub(super) fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}
