// A client whose server answers with any bytes: all that it does with them must end in a value or an error.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use xapi_client::api::{Task, Vm};
use xapi_client::{Client, EventBatch, Protocol, Ref, Request, Transport};

/// Answers logins, and everything else with the same bytes.
#[derive(Debug)]
struct Line {
    login: &'static [u8],
    answer: Arc<Mutex<Bytes>>,
}

#[async_trait]
impl Transport for Line {
    async fn send(&self, request: Request) -> xapi_client::Result<Bytes> {
        Ok(if request.method.starts_with("session.") {
            Bytes::from_static(self.login)
        } else {
            self.answer.lock().unwrap().clone()
        })
    }

    fn host(&self) -> &str {
        "line"
    }
}

pub struct Fuzz {
    runtime: tokio::runtime::Runtime,
    client: Client,
    answer: Arc<Mutex<Bytes>>,
}

impl Fuzz {
    pub fn new(protocol: Protocol, login: &'static [u8]) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let answer = Arc::new(Mutex::new(Bytes::new()));
        let line = Line {
            login,
            answer: answer.clone(),
        };
        let builder = Client::over(Arc::new(line)).protocol(protocol);
        let client = runtime.block_on(builder.login()).unwrap();
        Self {
            runtime,
            client,
            answer,
        }
    }

    pub fn decode(&self, answer: &[u8]) {
        *self.answer.lock().unwrap() = Bytes::copy_from_slice(answer);
        let client = &self.client;
        self.runtime.block_on(async {
            let vm = Ref::<Vm>::new("v");
            note(client.vm().get_all_records().await);
            note(client.vm().get_all_records().raw().await);
            note(client.vm().get_record(&vm).await);
            note(client.vm().query_data_source(&vm, "cpu0").await);
            note(client.vm().get_all().await);
            note(client.call("host.get_servertime", vec![]).select::<xapi_client::DateTime>().await);
            // Results of tasks are XML within either protocol.
            if let Ok(record) = client.task().get_record(&Ref::<Task>::new("t")).await {
                let _ = record.result;
            }
            if let Ok(batch) = client.event().from(&["*"], "", 0.0).await {
                let batch: EventBatch = batch;
                for event in &batch.events {
                    note(event.record::<Vm>());
                }
            }
        });
    }
}

/// Errors are told to people: that must not fail either.
fn note<T>(outcome: xapi_client::Result<T>) {
    if let Err(error) = outcome {
        let _ = format!("{error} {error:?}");
    }
}
