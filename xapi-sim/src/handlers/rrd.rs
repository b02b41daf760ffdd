//! Statistics: `/rrd_updates`, `/host_rrd`, `/vm_rrd`, `/sr_rrd`.
//!
//! The numbers are made up; the forms, the times and the places without numbers are a host's.

use std::fmt::Write as _;

use super::measured::{Measured, Place};
use super::request::Request;
use super::{Trouble, redirect};
use crate::failure::Failure;
use crate::http::Connection;
use crate::value::{NULL_REF, parse_int};

/// Seconds between two measurements.
const STEP: i64 = 5;
/// The archives: how many measurements make a row, and how many rows there are.
const ARCHIVES: [(i64, i64); 4] = [(1, 120), (12, 120), (720, 168), (17_280, 366)];
/// How measurements become rows; hosts keep nothing but averages unless they are told to.
const FUNCTION: &str = "AVERAGE";

/// A number as the server writes it: no JSON where it is none.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        let sign = if value < 0.0 { "-" } else { "" };
        format!("{sign}Infinity")
    } else if value == 0.0 {
        "0.0".to_owned()
    } else {
        format!("{value:.4}")
    }
}

const NOT_FOUND: &str = "Not_found";

pub(super) async fn updates(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let start = request.query("start");
    let start = start.ok_or_else(|| Trouble::Exception(NOT_FOUND.to_owned()))?;
    let start = parse_int(start)
        .ok_or_else(|| Trouble::Exception("Failure(\"Int64.of_string\")".to_owned()))?;
    let interval = request.query("interval").and_then(parse_int).unwrap_or(0);
    let function = request.query("cf").filter(|name| *name != FUNCTION);
    let json = request.query("json").is_some();
    let (measured, now) = request.shared.with(|world| {
        let place = Place {
            world,
            host: &request.host,
        };
        let mut measured = Vec::new();
        if request.query("host") == Some("true") {
            measured.push(place.measured_host()?);
        }
        let vms = request.query("vm_uuid").unwrap_or("all");
        for vm in place.chosen("VM", place.vms()?, vms) {
            measured.push(place.measured_vm(&vm)?);
        }
        let srs = request.query("sr_uuid").unwrap_or("none");
        for sr in place.chosen("SR", place.srs()?, srs) {
            measured.push(place.measured_sr(&sr)?);
        }
        Ok::<_, Failure>((measured, world.clock.seconds()))
    })?;
    if measured.is_empty() || function.is_some_and(|name| !["MIN", "MAX", "LAST"].contains(&name)) {
        return Err(Trouble::Exception("Rrd.No_RRA_Available".to_owned()));
    }
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let table = Table::new(&measured, start, interval, now);
    let body = if json { table.json() } else { table.xml() };
    let length = format!("Content-Length: {}", body.len());
    let mut head = vec![
        "HTTP/1.1 200 OK",
        "Connection: keep-alive",
        &length,
        "Cache-Control: no-cache, no-store",
    ];
    if !json {
        head.push("content-type: text/xml");
    }
    head.extend([
        "Access-Control-Allow-Origin: *",
        "Access-Control-Allow-Headers: X-Requested-With",
    ]);
    connection.write_head(&head).await?;
    connection.write(body.as_bytes()).await?;
    Ok(())
}

/// The newest rows of an archive.
struct Table<'m> {
    measured: &'m [Measured],
    step: i64,
    first: i64,
    last: i64,
    /// The newest first.
    times: Vec<i64>,
}

impl Table<'_> {
    fn new(measured: &[Measured], start: i64, interval: i64, now: i64) -> Table<'_> {
        let updated = now / STEP * STEP;
        let start = if start < 0 { updated + start } else { start };
        // The finest archive that is no finer than asked for and reaches back far enough.
        let wanted = (interval / STEP).max(1);
        let able = ARCHIVES.iter().filter(|(count, _)| *count >= wanted);
        let reaches = |(count, rows): &&(i64, i64)| updated - count * rows * STEP <= start;
        let coarsest = ARCHIVES[ARCHIVES.len() - 1];
        let (count, rows) = able.clone().find(reaches).copied().unwrap_or(coarsest);
        let step = STEP * count;
        let last = updated / step * step;
        let first = start / step * step + step;
        let times = (0..rows)
            .map(|row| last - row * step)
            .take_while(|time| *time >= start)
            .collect();
        Table {
            measured,
            step,
            first,
            last,
            times,
        }
    }

    fn legend(&self) -> impl Iterator<Item = String> {
        self.measured.iter().flat_map(|measured| {
            let names = measured.sources.iter();
            names.map(|source| format!("{FUNCTION}:{}{}", measured.prefix, source.name))
        })
    }

    fn row(&self, time: i64) -> impl Iterator<Item = String> {
        self.measured.iter().flat_map(move |measured| {
            let sources = measured.sources.iter();
            sources.map(move |source| number(measured.at(source, time)))
        })
    }

    fn xml(&self) -> String {
        let mut out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<xport><meta>".to_owned();
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "<start>{}</start><step>{}</step><end>{}</end><rows>{}</rows><columns>{}</columns>",
            self.first,
            self.step,
            self.last,
            self.times.len(),
            self.legend().count()
        );
        out.push_str("<legend>");
        for name in self.legend() {
            let _ = write!(out, "<entry>{name}</entry>");
        }
        out.push_str("</legend></meta><data>");
        for time in &self.times {
            let _ = write!(out, "<row><t>{time}</t>");
            for value in self.row(*time) {
                let _ = write!(out, "<v>{value}</v>");
            }
            out.push_str("</row>");
        }
        out.push_str("</data></xport>");
        out
    }

    fn json(&self) -> String {
        let legend: Vec<String> = self.legend().map(|name| format!("\"{name}\"")).collect();
        let rows: Vec<String> = self
            .times
            .iter()
            .map(|time| {
                let values: Vec<String> = self.row(*time).collect();
                format!("{{\"t\":{time},\"values\":[{}]}}", values.join(","))
            })
            .collect();
        format!(
            "{{\"meta\":{{\"start\":{},\"step\":{},\"end\":{},\"rows\":{},\"columns\":{},\
             \"legend\":[{}]}},\"data\":[{}]}}",
            self.first,
            self.step,
            self.last,
            rows.len(),
            legend.len(),
            legend.join(","),
            rows.join(",")
        )
    }
}

pub(super) async fn of_host(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let measured = request.shared.with(|world| {
        let place = Place {
            world,
            host: &request.host,
        };
        place.measured_host()
    })?;
    send_whole(request, connection, &measured).await
}

pub(super) async fn of_sr(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let uuid = request.query("uuid");
    let uuid = uuid.ok_or_else(|| Trouble::Exception(NOT_FOUND.to_owned()))?;
    let measured = request.shared.with(|world| {
        let place = Place {
            world,
            host: &request.host,
        };
        let chosen = place.chosen("SR", place.srs()?, uuid);
        let first = chosen.first();
        first.map(|sr| place.measured_sr(sr)).transpose()
    })?;
    let missing = "Failure(\"No SR RRD available!\")";
    let measured = measured.ok_or_else(|| Trouble::Exception(missing.to_owned()))?;
    send_whole(request, connection, &measured).await
}

pub(super) async fn of_vm(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let uuid = request.query("uuid");
    let uuid = uuid.ok_or_else(|| Trouble::Exception(NOT_FOUND.to_owned()))?;
    let (host, measured) = request.shared.with(|world| {
        let vm = world.db.by_uuid("VM", uuid);
        let vm = vm.ok_or_else(|| Failure::uuid_invalid("VM", uuid))?;
        let host = world.db.text("VM", &vm, "resident_on")?;
        let place = Place {
            world,
            host: &request.host,
        };
        Ok::<_, Failure>((host, place.measured_vm(&vm)?))
    })?;
    if host == NULL_REF || host.is_empty() {
        // Nothing is kept of VMs that do not run.
        connection.write_head(&super::MISSING).await?;
        return Ok(());
    }
    if host != request.host {
        return redirect(request, connection, &host).await;
    }
    send_whole(request, connection, &measured).await
}

/// Sends everything that is kept of something.
async fn send_whole(
    request: &Request,
    connection: &mut Connection,
    measured: &Measured,
) -> Result<(), Trouble> {
    let now = request.shared.with(|world| world.clock.seconds());
    let updated = i64::try_from(now).unwrap_or(i64::MAX) / STEP * STEP;
    let json = request.query("json").is_some();
    let body = if json {
        whole_json(measured, updated)
    } else {
        whole_xml(measured, updated)
    };
    let head = [
        "HTTP/1.0 200 OK",
        "Connection: close",
        "Cache-Control: no-cache, no-store",
        "Access-Control-Allow-Origin: *",
    ];
    connection.write_head(&head).await?;
    connection.write(body.as_bytes()).await?;
    Ok(())
}

/// The times of an archive's rows, the oldest first.
fn times(count: i64, rows: i64, updated: i64) -> impl Iterator<Item = i64> {
    let step = count * STEP;
    let last = updated / step * step;
    (0..rows).rev().map(move |row| last - row * step)
}

fn whole_xml(measured: &Measured, updated: i64) -> String {
    let mut out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<rrd>".to_owned();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<version>0003</version><step>{STEP}</step><lastupdate>{updated}</lastupdate>"
    );
    for source in &measured.sources {
        let _ = write!(
            out,
            "<ds><name>{}</name><type>{}</type><minimal_heartbeat>300.0000</minimal_heartbeat>\
             <min>0.0</min><max>Infinity</max><last_ds>{}</last_ds><value>0.0</value>\
             <unknown_sec>0</unknown_sec></ds>",
            source.name,
            source.kind,
            number(measured.at(source, updated))
        );
    }
    for (count, rows) in ARCHIVES {
        let _ = write!(
            out,
            "<rra><cf>{FUNCTION}</cf><pdp_per_row>{count}</pdp_per_row><params><xff>0.5000</xff>\
             </params><cdp_prep>"
        );
        for _ in &measured.sources {
            out.push_str(
                "<ds><primary_value>0.0</primary_value><secondary_value>0.0</secondary_value>\
                 <value>0.0</value><unknown_datapoints>0</unknown_datapoints></ds>",
            );
        }
        out.push_str("</cdp_prep><database>");
        for time in times(count, rows, updated) {
            out.push_str("<row>");
            for source in &measured.sources {
                let _ = write!(out, "<v>{}</v>", number(measured.at(source, time)));
            }
            out.push_str("</row>");
        }
        out.push_str("</database></rra>");
    }
    out.push_str("</rrd>");
    out
}

fn whole_json(measured: &Measured, updated: i64) -> String {
    let sources: Vec<String> = measured
        .sources
        .iter()
        .map(|source| {
            format!(
                "{{\"name\":\"{}\",\"type\":\"{}\",\"minimal_heartbeat\":300.0000,\"min\":0.0,\
                 \"max\":Infinity,\"last_ds\":{},\"value\":0.0,\"unknown_sec\":0}}",
                source.name,
                source.kind,
                number(measured.at(source, updated))
            )
        })
        .collect();
    let prepared = "{\"primary_value\":0.0,\"secondary_value\":0.0,\"value\":0.0,\
                    \"unknown_datapoints\":0}";
    let prepared = vec![prepared; sources.len()].join(",");
    let archives = ARCHIVES.map(|(count, rows)| {
        let rows = times(count, rows, updated).map(|time| {
            let values = measured.sources.iter();
            let values: Vec<String> = values
                .map(|source| number(measured.at(source, time)))
                .collect();
            format!("[{}]", values.join(","))
        });
        let rows: Vec<String> = rows.collect();
        format!(
            "{{\"cf\":\"{FUNCTION}\",\"pdp_per_row\":{count},\"params\":{{\"xff\":0.5000}},\
             \"cdp_prep\":{{\"ds\":[{prepared}]}},\"database\":[{}]}}",
            rows.join(",")
        )
    });
    format!(
        "{{\"version\":\"0003\",\"step\":{STEP},\"lastupdate\":{updated},\"ds\":[{}],\"rra\":[{}]}}",
        sources.join(","),
        archives.join(",")
    )
}
