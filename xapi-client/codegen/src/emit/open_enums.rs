//! `enums.rs` and `errors.rs`: invocations of `open_enum!`, which a macro body keeps short.

use std::fmt::Write as _;

use anyhow::Result;

use crate::lower::Api;

pub(crate) fn enums(api: &Api) -> Result<String> {
    let mut out = String::from("\nuse crate::open_enum::open_enum;\n");
    for item in &api.enums {
        write!(
            out,
            "\nopen_enum! {{\n    /// The enum `{}`.\n    {} {{\n",
            item.wire, item.type_name
        )?;
        for (variant, value) in &item.values {
            writeln!(out, "        {variant} = {value:?},")?;
        }
        out.push_str("    }\n}\n");
    }
    Ok(out)
}

pub(crate) fn errors(api: &Api) -> Result<String> {
    let mut out = String::from(
        "
use crate::open_enum::open_enum;

open_enum! {
    /// An error code of the server.
    ///
    /// The datamodel names the parameters of most codes; servers of other versions may send more or
    /// fewer, and storage backends make codes of their own (`SR_BACKEND_FAILURE_44`).
    ErrorCode {
",
    );
    for error in &api.errors {
        match error.params.as_deref() {
            Some([]) => writeln!(out, "        /// No parameters.")?,
            Some(params) => writeln!(out, "        /// Parameters: {}.", params.join(", "))?,
            None => writeln!(out, "        /// Parameters not declared.")?,
        }
        writeln!(out, "        {} = {:?},", error.variant, error.code)?;
    }
    out.push_str("    }\n}\n");
    Ok(out)
}
