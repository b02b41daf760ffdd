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
mod internal;
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
mod table;
mod thin_cli;
mod vhd;
mod vm_export;
mod vm_import;
mod xva;

use crate::failure::Failure;
use crate::fault::{Spoil, TransferVerdict};
use crate::http::{Connection, Head, Response, Way, exception, forbidden, injected, unauthorised};
use crate::outage;
use crate::rpc::Face;
use crate::value::Value;
use request::{Asked, Denied, Request, Task};
use table::{Handler, find};
pub(crate) use table::{has, serves};

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
    let asked = Asked::new(face, head, handler);
    let verdict = asked.strike();
    let place = asked.note();
    let answer = carry_out(face, head, connection, handler, verdict).await;
    let failure = answer.failure.as_deref();
    face.shared.with(|world| world.log.answered(place, failure));
    answer.response
}

/// What a request comes to: an answer that is still to be written, and what the log says of it.
struct Outcome {
    response: Option<Response>,
    failure: Option<String>,
}

impl Outcome {
    /// The connection ends, and all has been said.
    fn ended() -> Self {
        Outcome {
            response: None,
            failure: None,
        }
    }

    fn refused(response: Response, failure: impl Into<String>) -> Self {
        Outcome {
            response: Some(response),
            failure: Some(failure.into()),
        }
    }

    fn failed(failure: &Failure) -> Self {
        Self::refused(exception(&request::text_of(failure)), failure.code.as_str())
    }
}

/// Does what is asked for, as far as rules let it happen.
async fn carry_out(
    face: &Face,
    head: &Head,
    connection: &mut Connection,
    handler: &'static Handler,
    verdict: TransferVerdict,
) -> Outcome {
    if verdict.crash.is_none() && !verdict.delay.is_zero() {
        tokio::time::sleep(verdict.delay).await;
    }
    match verdict.spoil {
        Some(Spoil::Disconnect) if verdict.skips => return Outcome::ended(),
        Some(Spoil::Status(status)) if verdict.skips => {
            return Outcome::refused(injected(status), format!("HTTP {status}"));
        }
        _ => {}
    }
    if handler.name == "post_cli" {
        return match thin_cli::serve(&face.shared, head, connection).await {
            Ok(()) | Err(Trouble::Gone) => Outcome::ended(),
            Err(Trouble::Failed(failure)) => Outcome::failed(&failure),
            Err(Trouble::Exception(text)) => Outcome::refused(exception(&text), "INTERNAL_ERROR"),
        };
    }
    let mut request = match Request::accept(face, head, handler.name, handler.role) {
        Ok(request) => request,
        Err(Denied::Unauthorised) => {
            return Outcome::refused(unauthorised(handler.name), "HTTP 401");
        }
        Err(Denied::Forbidden) => return Outcome::refused(forbidden().ending(), "HTTP 403"),
        Err(Denied::UnknownScheme(text)) => {
            let text = format!("Failure(\"Unknown authorization header: {text}\")");
            return Outcome::refused(exception(&text), "INTERNAL_ERROR");
        }
    };
    if let Some(failure) = verdict.before {
        request.fail_given_task(&failure);
        return Outcome::failed(&failure);
    }
    request.late = verdict.late;
    connection.way = Way {
        left: match verdict.spoil {
            Some(Spoil::Truncate(bytes)) => Some(bytes),
            _ => None,
        },
        pause: match verdict.spoil {
            Some(Spoil::Slow(pause)) => Some(pause),
            _ => None,
        },
        mute: matches!(verdict.spoil, Some(Spoil::Disconnect | Spoil::Status(_))),
        cut: false,
    };
    let result = match verdict.crash {
        None => run(&request, connection, handler).await,
        Some(reboot) => {
            let host = request.host.clone();
            tokio::select! {
                biased;
                _ = run(&request, connection, handler) => {}
                () = tokio::time::sleep(verdict.delay) => {}
            }
            match outage::crash(&face.shared, &host) {
                Ok(()) => outage::boot_after(&face.shared, host, reboot),
                Err(failure) => return Outcome::failed(&failure),
            }
            // There is nobody left to answer.
            Err(Trouble::Gone)
        }
    };
    let way = std::mem::take(&mut connection.way);
    match (verdict.spoil, request.late.take(), result) {
        (Some(Spoil::Disconnect), ..) => Outcome::ended(),
        (Some(Spoil::Status(status)), ..) => {
            Outcome::refused(injected(status), format!("HTTP {status}"))
        }
        // It has begun to answer: this goes behind what has been sent.
        (_, Some(failure), _) => Outcome::failed(&failure),
        (_, None, _) if way.cut => Outcome::ended(),
        (_, None, Ok(()) | Err(Trouble::Gone)) => Outcome::ended(),
        (_, None, Err(Trouble::Failed(failure))) => Outcome::failed(&failure),
        (_, None, Err(Trouble::Exception(text))) => {
            Outcome::refused(exception(&text), "INTERNAL_ERROR")
        }
    }
}

async fn run(
    request: &Request,
    connection: &mut Connection,
    handler: &'static Handler,
) -> Result<(), Trouble> {
    match handler.name {
        "get_export" => vm_export::export(request, connection).await,
        "get_export_metadata" => vm_export::export_metadata(request, connection).await,
        "put_import" => vm_import::import(request, connection).await,
        "put_import_metadata" => vm_import::import_metadata(request, connection).await,
        "connect_console" | "connect_console_ws" => console::connect(request, connection).await,
        "host_rrd" => rrd::of_host(request, connection).await,
        "rrd_updates" => rrd::updates(request, connection).await,
        "sr_rrd" => rrd::of_sr(request, connection).await,
        "vm_rrd" => rrd::of_vm(request, connection).await,
        "get_audit_log" => logs::audit(request, connection).await,
        "get_system_status" => logs::status(request, connection).await,
        "get_pool_xml_db_sync" => database::dump(request, connection).await,
        "put_pool_xml_db_sync" => restore::restore(request, connection).await,
        "get_host_backup" => backup::backup(request, connection).await,
        "put_host_restore" => backup::restore(request, connection).await,
        "get_host_logs_download" => logs::download(request, connection).await,
        "get_vncsnapshot" => console::snapshot(request),
        "get_blob" => blob::get(request, connection).await,
        "put_blob" => blob::put(request, connection).await,
        "get_services" | "get_services_sm" => services::list(request, connection).await,
        // Those of other daemons, which no model has.
        "get_services_xenops"
        | "post_services_xenops"
        | "put_services_xenops"
        | "post_services"
        | "put_services"
        | "post_services_sm"
        | "put_services_sm" => services::missing(connection).await,
        "connect_remotecmd" => internal::remote_command(request),
        "get_config_sync" => internal::config_files(request, connection).await,
        "rrd" => internal::put_statistics(request, connection).await,
        // No update has been uploaded, and no repository has been fetched.
        "get_pool_update_download" | "get_repository" => services::missing(connection).await,
        "get_enabled_repository" | "get_host_updates" | "get_updates" => {
            refuse(request, Failure::code("NO_REPOSITORY_ENABLED"))
        }
        "put_bundle" => refuse(request, Failure::code("BUNDLE_REPO_NOT_ENABLED")),
        "get_wlb_report" if request.query("report").is_none() => {
            Err(Trouble::Exception("Failure(\"Bad request\")".to_owned()))
        }
        "get_wlb_report" | "get_wlb_diagnostics" => {
            refuse(request, Failure::code("WLB_NOT_INITIALIZED"))
        }
        "get_export_raw_vdi" => raw_vdi::export(request, connection).await,
        "put_import_raw_vdi" => raw_vdi::import(request, connection).await,
        name => {
            tracing::warn!(handler = name, "this handler is not simulated");
            let method = format!("{} {}", handler.method, handler.path);
            request
                .shared
                .with(|world| world.log.unimplemented.insert(method));
            refuse(request, Failure::new("NOT_IMPLEMENTED", [name]))
        }
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
