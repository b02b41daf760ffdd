//! Rust types for the types of the datamodel.

use anyhow::{Context, Result, bail};
use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;

use crate::names::camel;
use crate::ty::Type;

pub(crate) fn ident(name: &str) -> Ident {
    Ident::new(name, Span::call_site())
}

/// The type of a field or a result.
pub(crate) fn owned(ty: &Type) -> TokenStream {
    match ty {
        Type::Void => quote!(()),
        Type::String => quote!(String),
        Type::SecretString => quote!(SecretString),
        Type::Int => quote!(i64),
        Type::Float => quote!(f64),
        Type::Bool => quote!(bool),
        Type::DateTime => quote!(DateTime),
        Type::Uuid => quote!(Uuid),
        Type::EventBatch => quote!(EventBatch),
        Type::AnyRecord => quote!(Value),
        Type::Enum(name) => {
            let name = ident(&camel(name));
            quote!(#name)
        }
        Type::Ref(class) => {
            let class = ident(&camel(class));
            quote!(Ref<#class>)
        }
        Type::Record(class) if class == "event" => quote!(Event),
        Type::Record(class) => {
            let record = ident(&format!("{}Record", camel(class)));
            quote!(#record)
        }
        Type::Set(inner) => {
            let inner = owned(inner);
            quote!(Vec<#inner>)
        }
        Type::Map(key, value) => {
            let (key, value) = (owned(key), owned(value));
            quote!(BTreeMap<#key, #value>)
        }
        Type::Option(inner) => {
            let inner = owned(inner);
            quote!(Option<#inner>)
        }
    }
}

/// The type of a parameter: borrowed where that spares the caller a copy.
pub(crate) fn borrowed(ty: &Type) -> TokenStream {
    match ty {
        Type::String | Type::Uuid => quote!(&str),
        Type::SecretString | Type::Ref(_) | Type::Map(..) | Type::Record(_) => {
            let owned = owned(ty);
            quote!(&#owned)
        }
        Type::Set(inner) => {
            let inner = if **inner == Type::String {
                quote!(&str)
            } else {
                owned(inner)
            };
            quote!(&[#inner])
        }
        _ => owned(ty),
    }
}

/// The type that a filter compares a field with; `None` where the text form of the database is not that of
/// the wire.
pub(crate) fn compared(ty: &Type) -> Option<TokenStream> {
    match ty {
        Type::String | Type::Uuid => Some(quote!(str)),
        Type::Int | Type::Bool | Type::Enum(_) | Type::Ref(_) => Some(owned(ty)),
        _ => None,
    }
}

/// An expression for a value that `overrides.toml` gives.
pub(crate) fn literal(ty: &Type, text: &str) -> Result<TokenStream> {
    Ok(match ty {
        Type::String => quote!(#text.to_owned()),
        Type::Int => {
            let number: i64 = text
                .parse()
                .with_context(|| format!("`{text}` is no integer"))?;
            let number = proc_macro2::Literal::i64_unsuffixed(number);
            quote!(#number)
        }
        Type::Bool => {
            let value: bool = text
                .parse()
                .with_context(|| format!("`{text}` is no bool"))?;
            quote!(#value)
        }
        Type::Enum(name) => {
            let (name, variant) = (ident(&camel(name)), ident(&camel(text)));
            quote!(#name::#variant)
        }
        _ => bail!("an override cannot give a default for a {ty:?}"),
    })
}
