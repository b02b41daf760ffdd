//! Performance data, which each host keeps for itself and for the VMs that run there.

use std::future::IntoFuture;
use std::pin::Pin;

use quick_xml::Reader;
use quick_xml::events::Event;
use serde::Deserialize;

use crate::api::Host;
use crate::client::Client;
use crate::error::{Cause, Error, Result};
use crate::handlers::Download;
use crate::jsonrpc::repair;
use crate::reference::{Ref, Uuid};
use crate::wire;

/// How samples of a time became one value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consolidation {
    /// Their mean. The default, and all that hosts keep unless told otherwise.
    #[default]
    Average,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The last.
    Last,
}

impl Consolidation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Average => "AVERAGE",
            Self::Min => "MIN",
            Self::Max => "MAX",
            Self::Last => "LAST",
        }
    }
}

/// Performance data of a time: a table with a column for each source and a row for each moment.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Measurements {
    /// The seconds between two rows.
    pub step: i64,
    /// What the columns are.
    pub columns: Vec<Source>,
    /// The rows, from the oldest to the newest.
    pub rows: Vec<Row>,
}

/// What a column of [`Measurements`] is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Source {
    /// How values were made, `AVERAGE`.
    pub consolidation: String,
    /// `vm`, `host` or `sr`.
    pub class: String,
    /// The UUID of the object.
    pub uuid: String,
    /// What is measured, `cpu0` or `memory_total_kib`.
    pub name: String,
}

/// A row of [`Measurements`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Row {
    /// The moment, in seconds since 1970 by the clock of the host.
    pub time: i64,
    /// A value for each column; what is not known is not a number.
    pub values: Vec<f64>,
}

impl Measurements {
    /// The known values of a source of an object, with their moments.
    pub fn of(&self, uuid: &str, name: &str) -> impl Iterator<Item = (i64, f64)> + use<'_> {
        let column = self
            .columns
            .iter()
            .position(|source| source.uuid == uuid && source.name == name);
        self.rows.iter().filter_map(move |row| {
            let value = *row.values.get(column?)?;
            (!value.is_nan()).then_some((row.time, value))
        })
    }

    /// Reads an answer of `/rrd_updates`, in JSON or XML.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] when it is none, or not whole.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(text);
        let parsed = if text.trim_start().starts_with('<') {
            from_xml(&text)
        } else {
            from_json(&text)
        };
        let mut table = parsed.map_err(|source| Error::Decode {
            method: METHOD.to_owned(),
            source,
        })?;
        for row in &mut table.rows {
            row.values.resize(table.columns.len(), f64::NAN);
        }
        // Servers begin with the newest.
        table.rows.sort_by_key(|row| row.time);
        Ok(table)
    }
}

const METHOD: &str = "GET /rrd_updates";

fn source(legend: &str) -> Source {
    let mut parts = legend.splitn(4, ':').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Source {
        consolidation: next(),
        class: next(),
        uuid: next(),
        name: next(),
    }
}

fn from_json(text: &str) -> std::result::Result<Measurements, Cause> {
    #[derive(Deserialize)]
    struct Answer {
        meta: Meta,
        data: Vec<Line>,
    }
    #[derive(Deserialize)]
    struct Meta {
        step: i64,
        legend: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Line {
        t: i64,
        values: Vec<f64>,
    }

    let answer: Answer = match wire::decode(text) {
        Ok(answer) => answer,
        // Values that are not known are no JSON.
        Err(error) => {
            let repaired = repair(text.as_bytes()).ok_or(error)?;
            wire::decode(&String::from_utf8_lossy(&repaired))?
        }
    };
    let rows = answer.data.into_iter().map(|line| Row {
        time: line.t,
        values: line.values,
    });
    Ok(Measurements {
        step: answer.meta.step,
        columns: answer.meta.legend.iter().map(|text| source(text)).collect(),
        rows: rows.collect(),
    })
}

fn from_xml(text: &str) -> std::result::Result<Measurements, Cause> {
    let mut reader = Reader::from_str(text);
    let mut table = Measurements::default();
    let mut content = String::new();
    let mut is_whole = false;
    loop {
        match reader.read_event()? {
            Event::Start(tag) => {
                content.clear();
                if tag.name().0 == "row" {
                    let values = Vec::with_capacity(table.columns.len());
                    table.rows.push(Row { time: 0, values });
                }
            }
            Event::Text(more) => content.push_str(&more),
            Event::End(tag) => match (tag.name().0, table.rows.last_mut()) {
                ("step", _) => table.step = content.trim().parse()?,
                ("entry", _) => table.columns.push(source(content.trim())),
                ("t", Some(row)) => row.time = content.trim().parse()?,
                ("v", Some(row)) => row.values.push(content.trim().parse()?),
                ("xport", _) => is_whole = true,
                _ => {}
            },
            Event::Eof if is_whole => return Ok(table),
            Event::Eof => return Err("the answer ends early".into()),
            _ => {}
        }
    }
}

/// A question for performance data; `.await` asks it.
///
/// ```no_run
/// # use xapi_client::{Client, Ref, Result, api::Host};
/// # async fn example(client: &Client, host: &Ref<Host>, now: i64) -> Result<()> {
/// let table = client.rrd_updates(now - 60).at(host).await?;
/// for source in &table.columns {
///     for (time, value) in table.of(&source.uuid, &source.name) {
///         println!("{time} {} {}: {value}", source.uuid, source.name);
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`Download::open`]; [`Error::Decode`] when the answer makes no sense.
///
/// # Cancel safety
///
/// It only reads.
#[derive(Debug)]
#[must_use = "a question does nothing until it is awaited"]
pub struct RrdUpdates {
    download: Download,
}

impl RrdUpdates {
    /// Asks this host. Default: the coordinator.
    pub fn at(mut self, host: &Ref<Host>) -> Self {
        self.download = self.download.at(host);
        self
    }

    /// The seconds between two rows: 5, 60, 3,600 or 86,400. Default: as few as the host still knows of the
    /// whole time.
    pub fn interval(self, seconds: u32) -> Self {
        self.query("interval", &seconds.to_string())
    }

    /// How samples become values. Default: all that the host has.
    pub fn consolidation(self, consolidation: Consolidation) -> Self {
        self.query("cf", consolidation.as_str())
    }

    /// Of VMs only this one. Default: all that run on the host.
    pub fn vm(self, vm: &Uuid) -> Self {
        self.query("vm_uuid", vm)
    }

    /// Of storage this one. Default: none.
    pub fn sr(self, sr: &Uuid) -> Self {
        self.query("sr_uuid", sr)
    }

    fn query(mut self, name: &str, value: &str) -> Self {
        self.download = self.download.query(name, value);
        self
    }
}

impl IntoFuture for RrdUpdates {
    type Output = Result<Measurements>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Measurements>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut text = Vec::new();
            self.download.to(&mut text).await?;
            Measurements::parse(&text)
        })
    }
}

/// Performance data. It comes in one piece, so that no task is made for it.
impl Client {
    /// Asks a host for what it and its VMs measured since `start`, in seconds since 1970 by the clock of the
    /// host: `host.get_servertime` tells it.
    pub fn rrd_updates(&self, start: i64) -> RrdUpdates {
        let download = self.rrd("/rrd_updates").query("start", &start.to_string());
        let download = download.query("host", "true").query("json", "true");
        RrdUpdates { download }
    }

    /// Downloads all that is kept of a VM's measurements, as an archive of rrdtool in XML; from the host
    /// where it runs.
    pub fn vm_rrd(&self, vm: &Uuid) -> Download {
        self.rrd("/vm_rrd").query("uuid", vm)
    }

    /// Downloads all that a host keeps of its own measurements, as an archive of rrdtool in XML.
    pub fn host_rrd(&self, host: &Ref<Host>) -> Download {
        self.rrd("/host_rrd").at(host)
    }

    /// Downloads all that is kept of a storage's measurements, as an archive of rrdtool in XML.
    pub fn sr_rrd(&self, sr: &Uuid) -> Download {
        self.rrd("/sr_rrd").query("uuid", sr)
    }

    fn rrd(&self, path: &str) -> Download {
        self.download(path).without_task()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: &str = "ecd8d7a0-1be3-4d91-bd0e-4888c0e30ab3";

    const JSON: &str = r#"{"meta":{"start":1000,"step":5,"end":1010,"rows":2,"columns":2,"legend":[
        "AVERAGE:vm:ecd8d7a0-1be3-4d91-bd0e-4888c0e30ab3:cpu0","MAX:host:h:pif_a:b"]},
        "data":[{"t":1010,"values":[0.25,NaN]},{"t":1005,"values":["0.5",-Infinity]}]}"#;

    const XML: &str = "<?xml version=\"1.0\"?><xport><meta><start>1000</start><step>5</step><end>1010</end>\
        <rows>2</rows><columns>2</columns><legend>\
        <entry>AVERAGE:vm:ecd8d7a0-1be3-4d91-bd0e-4888c0e30ab3:cpu0</entry>\
        <entry>MAX:host:h:pif_a:b</entry></legend></meta>\n<data><row><t>1010</t><v>0.25</v><v>NaN</v></row>\
        <row><t>1005</t><v>0.5000</v><v>-Infinity</v></row></data></xport>";

    #[test]
    fn json_and_xml_give_the_same_table() {
        for text in [JSON, XML] {
            let table = Measurements::parse(text.as_bytes()).unwrap();
            assert_eq!(table.step, 5);
            let [cpu, pif] = &table.columns[..] else {
                panic!("{table:?}");
            };
            assert_eq!(
                (&*cpu.consolidation, &*cpu.class, &*cpu.name),
                ("AVERAGE", "vm", "cpu0")
            );
            assert_eq!((&*pif.uuid, &*pif.name), ("h", "pif_a:b"));
            let values: Vec<_> = table.of(VM, "cpu0").collect();
            assert_eq!(values, [(1005, 0.5), (1010, 0.25)]);
            let values: Vec<_> = table.of("h", "pif_a:b").collect();
            assert_eq!(
                values,
                [(1005, f64::NEG_INFINITY)],
                "what is not known is left out"
            );
            assert_eq!(table.of(VM, "cpu1").count(), 0);
        }
    }

    #[test]
    fn short_rows_are_filled_up() {
        let text = JSON.replace("[0.25,NaN]", "[0.25]");
        let table = Measurements::parse(text.as_bytes()).unwrap();
        assert!(table.rows.iter().all(|row| row.values.len() == 2));
    }

    #[test]
    fn what_is_cut_off_is_no_table() {
        for text in [JSON, XML] {
            for cut in 0..text.len() {
                assert!(
                    Measurements::parse(&text.as_bytes()[..cut]).is_err(),
                    "{cut}"
                );
            }
        }
    }

    #[test]
    fn no_sources_are_a_table_too() {
        let text =
            r#"{"meta":{"start":1,"step":5,"end":1,"rows":0,"columns":0,"legend":[]},"data":[]}"#;
        let table = Measurements::parse(text.as_bytes()).unwrap();
        assert!(table.columns.is_empty() && table.rows.is_empty());
    }
}
