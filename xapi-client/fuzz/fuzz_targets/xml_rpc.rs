#![no_main]

mod answers;

use std::cell::OnceCell;

use libfuzzer_sys::fuzz_target;
use xapi_client::Protocol;

thread_local! {
    static FUZZ: OnceCell<answers::Fuzz> = const { OnceCell::new() };
}

fuzz_target!(|answer: &[u8]| {
    FUZZ.with(|fuzz| {
        let login = b"<methodResponse><params><param><value>s</value></param></params></methodResponse>";
        fuzz.get_or_init(|| answers::Fuzz::new(Protocol::XmlRpc, login))
            .decode(answer);
    });
});
