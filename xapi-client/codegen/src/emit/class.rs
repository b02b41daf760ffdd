//! One file per class: its marker, its record, its argument structs, its messages.

use anyhow::Result;
use proc_macro2::TokenStream;
use quote::quote;

use super::types::{borrowed, compared, ident, literal, owned};
use crate::lower::{Class, Field, Input, InputField, InputValue, Message, Params, Place};
use crate::ty::Type;

/// The items of a class file.
pub(crate) fn emit(class: &Class) -> Result<TokenStream> {
    let marker = marker(class);
    let record = record(class);
    let fields = class.searchable.then(|| fields(class));
    let inputs = class.inputs.iter().map(input).collect::<Result<Vec<_>>>()?;
    let api = api(class);
    Ok(quote! {
        use super::prelude::*;

        #marker
        #fields
        #record
        #(#inputs)*
        #api
    })
}

/// The type that references are marked with.
fn marker(class: &Class) -> TokenStream {
    let name = ident(&class.type_name);
    let wire = &class.wire;
    let event_name = wire.to_lowercase();
    let doc = format!(
        " The class `{wire}`: marks references, `Ref<{}>`.",
        class.type_name
    );
    let record = (!class.record.is_empty()).then(|| {
        let record = ident(&format!("{}Record", class.type_name));
        quote! {
            impl Recorded for #name {
                type Record = #record;
            }
        }
    });
    quote! {
        #[doc = #doc]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum #name {}

        impl Class for #name {
            const NAME: &'static str = #wire;
            const EVENT_NAME: &'static str = #event_name;
        }

        #record
    }
}

/// The fields that filters can compare.
fn fields(class: &Class) -> TokenStream {
    let marker = ident(&class.type_name);
    let fields = class.record.iter().filter_map(|field| {
        let name = ident(&field.name.trim_end_matches('_').to_uppercase());
        let ty = compared(&field.ty)?;
        let column = &field.column;
        let doc = format!(" `{}`, for filters.", field.wire);
        let deprecated = deprecated(&field.place);
        Some(quote! {
            #[doc = #doc]
            #deprecated
            pub const #name: Field<Self, #ty> = Field::column(#column);
        })
    });
    quote! {
        impl #marker {
            #(#fields)*
        }
    }
}

fn record(class: &Class) -> Option<TokenStream> {
    if class.record.is_empty() {
        return None;
    }
    let name = ident(&format!("{}Record", class.type_name));
    let doc = format!(" The record of a `{}`.", class.wire);
    let fields = class.record.iter().map(field);
    Some(quote! {
        #[doc = #doc]
        ///
        /// Fields that the server does not send keep their neutral value.
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(default)]
        #[non_exhaustive]
        pub struct #name {
            #(#fields)*
        }
    })
}

fn field(field: &Field) -> TokenStream {
    let name = ident(&field.name);
    let ty = owned(&field.ty);
    let wire = &field.wire;
    let rename = (field.name != field.wire).then(|| quote!(#[serde(rename = #wire)]));
    let doc = format!(" `{wire}`, {}{}.", field.writer, history(&field.place));
    let deprecated = deprecated(&field.place);
    quote! {
        #[doc = #doc]
        #deprecated
        #rename
        pub #name: #ty,
    }
}

fn input(input: &Input) -> Result<TokenStream> {
    let name = ident(&input.type_name);
    let doc = format!(" The arguments of `{}`.", input.message);
    let fields = input.fields.iter().map(|field| {
        let name = ident(&field.name);
        let ty = owned(&field.ty);
        let (doc, ty) = match &field.value {
            InputValue::Optional(_) => (
                format!(" `{}`, the server's default when `None`.", field.wire),
                quote!(Option<#ty>),
            ),
            _ => (format!(" `{}`.", field.wire), ty),
        };
        quote! {
            #[doc = #doc]
            pub #name: #ty,
        }
    });
    let in_new = |wire: &String| input.fields.iter().find(|field| field.wire == *wire);
    let new_params = input.new.iter().filter_map(in_new).map(|field| {
        let name = ident(&field.name);
        let ty = match &field.ty {
            Type::String => quote!(impl Into<String>),
            ty => owned(ty),
        };
        quote!(#name: #ty)
    });
    let values = input
        .fields
        .iter()
        .map(initial)
        .collect::<Result<Vec<_>>>()?;
    let new_doc = format!(
        " Arguments for `{}` with the usual values for all others.",
        input.message
    );
    let encode = if input.is_struct {
        encode_struct(input)
    } else {
        encode_positional(input)
    };
    Ok(quote! {
        #[doc = #doc]
        #[derive(Debug, Clone)]
        #[non_exhaustive]
        pub struct #name {
            #(#fields)*
        }

        impl #name {
            #[doc = #new_doc]
            #[must_use]
            pub fn new(#(#new_params),*) -> Self {
                Self { #(#values),* }
            }

            #encode
        }
    })
}

fn initial(field: &InputField) -> Result<TokenStream> {
    let name = ident(&field.name);
    Ok(match &field.value {
        InputValue::New if field.ty == Type::String => quote!(#name: #name.into()),
        InputValue::New => quote!(#name),
        InputValue::Neutral => quote!(#name: Default::default()),
        InputValue::Fixed(text) => {
            let value = literal(&field.ty, text)?;
            quote!(#name: #value)
        }
        InputValue::Optional(_) => quote!(#name: None),
    })
}

fn encode_struct(input: &Input) -> TokenStream {
    let inserts = input.fields.iter().map(|field| {
        let (name, wire) = (ident(&field.name), &field.wire);
        match field.value {
            InputValue::Optional(_) => quote! {
                if let Some(value) = &self.#name {
                    map.insert(#wire.to_owned(), value.to_wire());
                }
            },
            _ => quote!(map.insert(#wire.to_owned(), self.#name.to_wire());),
        }
    });
    quote! {
        fn params(&self) -> Vec<Value> {
            let mut map = Map::new();
            #(#inserts)*
            vec![Value::Object(map)]
        }
    }
}

fn encode_positional(input: &Input) -> TokenStream {
    let (optional, required): (Vec<_>, Vec<_>) = input
        .fields
        .iter()
        .partition(|field| matches!(field.value, InputValue::Optional(_)));
    let required = required.into_iter().map(|field| {
        let name = ident(&field.name);
        quote!(self.#name.to_wire())
    });
    let optional = optional.into_iter().map(|field| {
        let name = ident(&field.name);
        let default = match &field.value {
            InputValue::Optional(Some(default)) => default.as_str(),
            _ => "\"\"",
        };
        quote!((self.#name.as_ref().map(ToWire::to_wire), #default))
    });
    quote! {
        fn params(&self) -> Vec<Value> {
            with_optional(vec![#(#required),*], &mut [#(#optional),*])
        }
    }
}

fn api(class: &Class) -> Option<TokenStream> {
    if class.messages.is_empty() {
        return None;
    }
    let name = ident(&format!("{}Api", class.type_name));
    let accessor = ident(&class.module);
    let doc = format!(
        " The messages of the class `{}`; made by [`Client::{accessor}`].",
        class.wire
    );
    let accessor_doc = format!(" The messages of the class `{}`.", class.wire);
    let deprecated = deprecated(&class.place);
    let messages = class.messages.iter().map(message);
    Some(quote! {
        #[doc = #doc]
        #[derive(Debug, Clone, Copy)]
        pub struct #name<'c>(&'c Client);

        impl Client {
            #[doc = #accessor_doc]
            #deprecated
            #[must_use]
            #[inline]
            pub fn #accessor(&self) -> #name<'_> {
                #name(self)
            }
        }

        impl<'c> #name<'c> {
            #(#messages)*
        }
    })
}

fn message(message: &Message) -> TokenStream {
    let name = ident(&message.name);
    let wire = &message.wire;
    let result = owned(&message.result);
    let docs = docs(message);
    let deprecated = deprecated(&message.place);
    let mode = if message.has_async {
        quote!(AsyncCapable)
    } else {
        quote!(SyncOnly)
    };
    let (params, values) = match &message.params {
        Params::Input(input) => {
            let input = ident(input);
            (quote!(args: &#input), quote!(args.params()))
        }
        Params::Positional(params) => {
            let declared = params.iter().map(|param| {
                let name = ident(&param.name);
                let ty = borrowed(&param.ty);
                match param.default {
                    Some(_) => quote!(#name: Option<#ty>),
                    None => quote!(#name: #ty),
                }
            });
            let required = params
                .iter()
                .filter(|param| param.default.is_none())
                .map(|param| {
                    let name = ident(&param.name);
                    quote!(#name.to_wire())
                });
            let optional = params.iter().filter_map(|param| {
                let name = ident(&param.name);
                let default = param.default.as_ref()?;
                Some(quote!((#name.map(|value| value.to_wire()), #default)))
            });
            let optional: Vec<_> = optional.collect();
            let values = if optional.is_empty() {
                quote!(vec![#(#required),*])
            } else {
                quote!(with_optional(vec![#(#required),*], &mut [#(#optional),*]))
            };
            (quote!(#(#declared),*), values)
        }
    };
    let constructor = if message.needs_session {
        quote!(new)
    } else {
        quote!(without_session)
    };
    quote! {
        #(#[doc = #docs])*
        #deprecated
        #[inline]
        pub fn #name(self, #params) -> Call<'c, #result, #mode> {
            Call::#constructor(self.0, #wire, #values)
        }
    }
}

fn docs(message: &Message) -> Vec<String> {
    let hidden = if message.hidden {
        ", not in the published reference"
    } else {
        ""
    };
    let facts = format!(
        "role {}{hidden}{}",
        message.min_role,
        history(&message.place)
    );
    let named = format!("`{}`, {facts}", message.wire);
    if message.on_field {
        return vec![format!(" {}: {named}.", message.summary)];
    }
    // The summary of a custom message is its name.
    let facts = if message.summary.contains(&message.wire) {
        facts.replacen("role", "Role", 1)
    } else {
        named
    };
    let mut docs = vec![
        format!(" {}.", message.summary),
        String::new(),
        format!(" {facts}."),
    ];
    if !message.errors.is_empty() {
        let errors: Vec<_> = message
            .errors
            .iter()
            .map(|code| format!("`{code}`"))
            .collect();
        docs.push(String::new());
        docs.push(" # Errors".to_owned());
        docs.push(String::new());
        docs.push(format!(" Declared: {}.", errors.join(", ")));
    }
    docs
}

fn history(place: &Place) -> String {
    match (&place.since, place.prototyped) {
        (Some(release), true) => format!(", prototype since {release}"),
        (Some(release), false) => format!(", since {release}"),
        (None, _) => String::new(),
    }
}

fn deprecated(place: &Place) -> Option<TokenStream> {
    let release = place.deprecated.as_ref()?;
    let note = format!("deprecated by the server since {release}");
    Some(quote!(#[deprecated(note = #note)]))
}
