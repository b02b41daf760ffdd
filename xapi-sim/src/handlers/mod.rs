//! What is served beside calls: disks, VMs in files, statistics, consoles.
//!
//! The table has every handler of a real server. Who may not use one is told so as there; those
//! that are not simulated say so, and [`Sim::unimplemented`](crate::Sim::unimplemented) lists them.

mod about;
mod backup;
mod blob;
mod block;
mod blocks;
mod console;
mod database;
mod logs;
pub(crate) mod measured;
mod ova;
mod ova_import;
mod pump;
mod qcow2;
mod raw_vdi;
mod request;
mod restore;
mod rrd;
mod services;
mod vhd;
mod vm_export;
mod vm_import;
mod xva;

use crate::failure::Failure;
use crate::http::{Connection, Head, Response, exception, forbidden, unauthorised};
use crate::rpc::Face;
use crate::value::Value;
use request::{Denied, Request, Task};

/// A handler of the server.
#[derive(Debug)]
struct Handler {
    /// The name that the server gives to it.
    name: &'static str,
    method: &'static str,
    path: &'static str,
    role: &'static str,
}

const fn handler(
    name: &'static str,
    method: &'static str,
    path: &'static str,
    role: &'static str,
) -> Handler {
    Handler {
        name,
        method,
        path,
        role,
    }
}

/// Every handler but those of calls.
const HANDLERS: &[Handler] = &[
    handler("get_services", "GET", "/services", "read-only"),
    handler("post_services", "POST", "/services", "pool-admin"),
    handler("put_services", "PUT", "/services", "pool-admin"),
    handler(
        "get_services_xenops",
        "GET",
        "/services/xenops",
        "vm-power-admin",
    ),
    handler(
        "post_services_xenops",
        "POST",
        "/services/xenops",
        "vm-power-admin",
    ),
    handler(
        "put_services_xenops",
        "PUT",
        "/services/xenops",
        "vm-power-admin",
    ),
    handler("get_services_sm", "GET", "/services/SM", "vm-power-admin"),
    handler("post_services_sm", "POST", "/services/SM", "vm-power-admin"),
    handler("put_services_sm", "PUT", "/services/SM", "vm-power-admin"),
    handler(
        "post_remote_db_access",
        "POST",
        "/remote_db_access",
        "pool-admin",
    ),
    handler(
        "post_remote_db_access_v2",
        "POST",
        "/remote_db_access_v2",
        "pool-admin",
    ),
    handler("put_import", "PUT", "/import", "vm-admin"),
    handler("put_import_metadata", "PUT", "/import_metadata", "vm-admin"),
    handler("put_import_raw_vdi", "PUT", "/import_raw_vdi", "vm-admin"),
    handler("get_export", "GET", "/export", "vm-admin"),
    handler("get_export_metadata", "GET", "/export_metadata", "vm-admin"),
    handler("get_export_raw_vdi", "GET", "/export_raw_vdi", "vm-admin"),
    handler("connect_console", "CONNECT", "/console", "vm-operator"),
    handler("connect_console_ws", "GET", "/console", "vm-operator"),
    handler("post_cli", "POST", "/cli", "read-only"),
    handler("get_host_backup", "GET", "/host_backup", "pool-admin"),
    handler("put_host_restore", "PUT", "/host_restore", "pool-admin"),
    handler(
        "get_host_logs_download",
        "GET",
        "/host_logs_download",
        "pool-operator",
    ),
    handler(
        "put_pool_patch_upload",
        "PUT",
        "/pool_patch_upload",
        "pool-operator",
    ),
    handler("get_vncsnapshot", "GET", "/vncsnapshot", "vm-operator"),
    handler(
        "get_pool_xml_db_sync",
        "GET",
        "/pool/xmldbdump",
        "pool-admin",
    ),
    handler(
        "put_pool_xml_db_sync",
        "PUT",
        "/pool/xmldbdump",
        "pool-admin",
    ),
    handler("get_config_sync", "GET", "/sync_config_files", "pool-admin"),
    handler(
        "get_system_status",
        "GET",
        "/system-status",
        "pool-operator",
    ),
    handler("vm_rrd", "GET", "/vm_rrd", "read-only"),
    handler("get_vm_rrds", "GET", "/vm_rrds", "read-only"),
    handler("host_rrd", "GET", "/host_rrd", "read-only"),
    handler("get_host_rrds", "GET", "/host_rrds", "read-only"),
    handler("sr_rrd", "GET", "/sr_rrd", "read-only"),
    handler("rrd_updates", "GET", "/rrd_updates", "read-only"),
    handler("rrd", "PUT", "/rrd", "pool-admin"),
    handler("get_blob", "GET", "/blob", "read-only"),
    handler("put_blob", "PUT", "/blob", "vm-power-admin"),
    handler("put_messages", "PUT", "/messages", "vm-power-admin"),
    handler("connect_remotecmd", "CONNECT", "/remotecmd", "pool-admin"),
    handler("get_wlb_report", "GET", "/wlb_report", "read-only"),
    handler(
        "get_wlb_diagnostics",
        "GET",
        "/wlb_diagnostics",
        "read-only",
    ),
    handler("get_audit_log", "GET", "/audit_log", "read-only"),
    handler("get_pool_update_download", "GET", "/update/", "read-only"),
    handler("get_repository", "GET", "/repository", "local-root-only"),
    handler(
        "get_enabled_repository",
        "GET",
        "/repository/enabled",
        "pool-operator",
    ),
    handler("get_host_updates", "GET", "/host_updates", "pool-operator"),
    handler("get_updates", "GET", "/updates", "pool-operator"),
    handler("put_bundle", "PUT", "/bundle", "pool-operator"),
];

/// The handlers that the simulator carries out.
const SIMULATED: &[&str] = &[
    "connect_console",
    "connect_console_ws",
    "get_audit_log",
    "get_blob",
    "put_blob",
    "get_vncsnapshot",
    "get_host_backup",
    "put_host_restore",
    "get_host_logs_download",
    "get_host_updates",
    "get_updates",
    "put_bundle",
    "get_pool_update_download",
    "get_services",
    "post_services",
    "put_services",
    "get_services_sm",
    "post_services_sm",
    "put_services_sm",
    "get_services_xenops",
    "post_services_xenops",
    "put_services_xenops",
    "get_system_status",
    "get_wlb_report",
    "get_wlb_diagnostics",
    "put_pool_xml_db_sync",
    "get_export",
    "get_export_metadata",
    "get_export_raw_vdi",
    "get_pool_xml_db_sync",
    "put_import",
    "put_import_metadata",
    "put_import_raw_vdi",
    "host_rrd",
    "rrd_updates",
    "sr_rrd",
    "vm_rrd",
];

/// Whether a request of this method and path goes to a handler and not to the calls.
pub(crate) fn serves(method: &str, path: &str) -> bool {
    find(method, path).is_some()
}

/// The handler with the longest path that the given one begins with.
fn find(method: &str, path: &str) -> Option<&'static Handler> {
    HANDLERS
        .iter()
        .filter(|handler| handler.method == method && path.starts_with(handler.path))
        .max_by_key(|handler| handler.path.len())
}

/// Answers a request that is no call. `None` when the answer has been written and the connection is
/// to end.
pub(crate) async fn respond(
    face: &Face,
    head: &Head,
    connection: &mut Connection,
) -> Option<Response> {
    if head.method == "GET" && head.path == about::PATH {
        return Some(about::respond(&face.shared, head));
    }
    let Some(handler) = find(&head.method, &head.path) else {
        // Files are looked for under every path of GET, and the connection goes on without them.
        let refused = forbidden();
        return Some(match head.method.as_str() {
            "GET" => refused,
            _ => refused.ending(),
        });
    };
    let request = match Request::accept(face, head, handler.name, handler.role) {
        Ok(request) => request,
        Err(Denied::Unauthorised) => return Some(unauthorised(handler.name)),
        Err(Denied::Forbidden) => return Some(forbidden().ending()),
        Err(Denied::UnknownScheme(text)) => {
            return Some(exception(&format!(
                "Failure(\"Unknown authorization header: {text}\")"
            )));
        }
    };
    let result = match handler.name {
        "get_export" => vm_export::export(&request, connection).await,
        "get_export_metadata" => vm_export::export_metadata(&request, connection).await,
        "put_import" => vm_import::import(&request, connection).await,
        "put_import_metadata" => vm_import::import_metadata(&request, connection).await,
        "connect_console" | "connect_console_ws" => console::connect(&request, connection).await,
        "host_rrd" => rrd::of_host(&request, connection).await,
        "rrd_updates" => rrd::updates(&request, connection).await,
        "sr_rrd" => rrd::of_sr(&request, connection).await,
        "vm_rrd" => rrd::of_vm(&request, connection).await,
        "get_audit_log" => logs::audit(&request, connection).await,
        "get_system_status" => logs::status(&request, connection).await,
        "get_pool_xml_db_sync" => database::dump(&request, connection).await,
        "put_pool_xml_db_sync" => restore::restore(&request, connection).await,
        "get_host_backup" => backup::backup(&request, connection).await,
        "put_host_restore" => backup::restore(&request, connection).await,
        "get_host_logs_download" => logs::download(&request, connection).await,
        "get_vncsnapshot" => console::snapshot(&request),
        "get_blob" => blob::get(&request, connection).await,
        "put_blob" => blob::put(&request, connection).await,
        "get_services" | "get_services_sm" => services::list(&request, connection).await,
        // Those of other daemons, which no model has.
        "get_services_xenops"
        | "post_services_xenops"
        | "put_services_xenops"
        | "post_services"
        | "put_services"
        | "post_services_sm"
        | "put_services_sm" => services::missing(connection).await,
        // No update has been uploaded.
        "get_pool_update_download" => services::missing(connection).await,
        "get_host_updates" | "get_updates" => {
            refuse(&request, Failure::code("NO_REPOSITORY_ENABLED"))
        }
        "put_bundle" => refuse(&request, Failure::code("BUNDLE_REPO_NOT_ENABLED")),
        "get_wlb_report" if request.query("report").is_none() => {
            Err(Trouble::Exception("Failure(\"Bad request\")".to_owned()))
        }
        "get_wlb_report" | "get_wlb_diagnostics" => {
            refuse(&request, Failure::code("WLB_NOT_INITIALIZED"))
        }
        "get_export_raw_vdi" => raw_vdi::export(&request, connection).await,
        "put_import_raw_vdi" => raw_vdi::import(&request, connection).await,
        name => {
            tracing::warn!(handler = name, "this handler is not simulated");
            let method = format!("{} {}", handler.method, handler.path);
            face.shared
                .with(|world| world.log.unimplemented.insert(method));
            refuse(&request, Failure::new("NOT_IMPLEMENTED", [name]))
        }
    };
    match result {
        Ok(()) | Err(Trouble::Gone) => None,
        Err(Trouble::Failed(failure)) => Some(exception(&request::text_of(&failure))),
        Err(Trouble::Exception(text)) => Some(exception(&text)),
    }
}

/// Lets a request fail, and the task of whoever asks, which nobody else would end.
fn refuse(request: &Request, failure: Failure) -> Result<(), Trouble> {
    request.fail_given_task(&failure);
    Err(Trouble::Failed(failure))
}

const OK: [&str; 3] = [
    "HTTP/1.1 200 OK",
    "Connection: close",
    "Cache-Control: no-cache, no-store",
];
const BAD: [&str; 3] = [
    "HTTP/1.1 400 Bad Request",
    "Connection: close",
    "Cache-Control: no-cache, no-store",
];

const MISSING: [&str; 3] = [
    "HTTP/1.1 404 Not Found",
    "Connection: close",
    "Cache-Control: no-cache, no-store",
];

/// As handlers say it that answer in an older version of HTTP.
const MISSING_1_0: [&str; 3] = [
    "HTTP/1.0 404 Not Found",
    "Connection: close",
    "Cache-Control: no-cache, no-store",
];

/// Ends a task as its request has ended.
fn finish(task: Task, result: Result<(), Trouble>, value: &Value) -> Result<(), Trouble> {
    let reply = match &result {
        Ok(()) => Ok(value.clone()),
        Err(Trouble::Failed(failure)) => Err(failure.clone()),
        Err(Trouble::Exception(text)) => Err(Failure::internal(text.clone())),
        Err(Trouble::Gone) => Err(Failure::new("CLIENT_ERROR", ["the client has gone"])),
    };
    task.finish(&reply);
    result
}

/// Sends a client to the host that can do what it wants. Its task stays as it is.
async fn redirect(
    request: &Request,
    connection: &mut Connection,
    host: &str,
) -> Result<(), Trouble> {
    let location = format!("Location: {}", request.elsewhere(host));
    let head = [
        "HTTP/1.1 302 Found",
        "Connection: close",
        "Cache-Control: no-cache, no-store",
        &location,
    ];
    connection.write_head(&head).await?;
    Ok(())
}

/// Why a handler does not come to its end.
#[derive(Debug)]
enum Trouble {
    /// The client has gone.
    Gone,
    /// A failure that ends as a page, even where an answer has begun.
    Failed(Failure),
    /// The same for an exception without a code.
    Exception(String),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Failed(failure)
    }
}

impl From<std::io::Error> for Trouble {
    fn from(_: std::io::Error) -> Self {
        Trouble::Gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_counts() {
        let name = |method, path| find(method, path).map(|handler| handler.name);
        assert_eq!(name("GET", "/export"), Some("get_export"));
        assert_eq!(name("GET", "/export_raw_vdi"), Some("get_export_raw_vdi"));
        assert_eq!(name("GET", "/services/SM/nfs"), Some("get_services_sm"));
        assert_eq!(name("GET", "/nothing"), None);
        assert_eq!(name("POST", "/export"), None);
    }

    #[test]
    fn what_is_simulated_is_in_the_table() {
        for name in SIMULATED {
            assert!(HANDLERS.iter().any(|handler| handler.name == *name));
        }
    }
}
