//! Asks nodes over HTTP, with deadlines.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;
use ureq::Agent;
use ureq::http::Response;

/// How long an answer may take: longer than nodes themselves wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A client.
pub struct Http {
    agent: Agent,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header `etag`.
    pub etag: Option<String>,
    /// The header `content-type`.
    pub content_type: Option<String>,
    /// All headers of this program's own, by name.
    pub own: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why}: {}", self.text()))
    }

    /// What is told to be wrong, for programs.
    pub fn code(&self) -> String {
        let told: Json = serde_json::from_slice(&self.body).unwrap_or_default();
        told["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Http {
    /// A client whose connections are its own.
    pub fn new() -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(ANSWER_WITHIN))
            // Connections that are kept would hide that a node is gone behind an error of their own.
            .max_idle_connections(0)
            .build();
        Self { agent: Agent::new_with_config(config) }
    }

    /// `GET`.
    pub fn get(&self, node: &str, path: &str) -> Result<Answer, String> {
        answer(self.agent.get(format!("http://{node}{path}")).call())
    }

    /// `GET` that must be answered within this time.
    pub fn get_within(&self, within: Duration, node: &str, path: &str) -> Result<Answer, String> {
        let request = self.agent.get(format!("http://{node}{path}")).config().timeout_global(Some(within));
        answer(request.build().call())
    }

    /// `PUT` of bytes.
    pub fn put(&self, node: &str, path: &str, body: impl AsRef<[u8]>) -> Result<Answer, String> {
        answer(self.agent.put(format!("http://{node}{path}")).send(body.as_ref()))
    }

    /// The same with an `Idempotency-Key`.
    pub fn put_keyed(&self, node: &str, path: &str, body: &str, key: &str) -> Result<Answer, String> {
        let request = self.agent.put(format!("http://{node}{path}")).header("idempotency-key", key);
        answer(request.send(body))
    }

    /// `GET`, `PUT` or `DELETE` with one more header.
    pub fn ask_with(
        &self,
        method: &str,
        node: &str,
        path: &str,
        header: (&str, &str),
        body: &str,
    ) -> Result<Answer, String> {
        let uri = format!("http://{node}{path}");
        answer(match method {
            "GET" => self.agent.get(uri).header(header.0, header.1).call(),
            "DELETE" => self.agent.delete(uri).header(header.0, header.1).call(),
            _ => self.agent.put(uri).header(header.0, header.1).send(body),
        })
    }

    /// `POST` of text.
    pub fn post_text(&self, node: &str, path: &str, text: &str) -> Result<Answer, String> {
        answer(self.agent.post(format!("http://{node}{path}")).send(text))
    }

    /// `DELETE`.
    pub fn delete(&self, node: &str, path: &str) -> Result<Answer, String> {
        answer(self.agent.delete(format!("http://{node}{path}")).call())
    }

    /// `POST` of JSON.
    pub fn post(&self, node: &str, path: &str, body: &Json) -> Result<Answer, String> {
        answer(self.agent.post(format!("http://{node}{path}")).send_json(body))
    }
}

fn answer(response: Result<Response<ureq::Body>, ureq::Error>) -> Result<Answer, String> {
    let mut response = response.map_err(|why| why.to_string())?;
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (etag, content_type) = (header("etag"), header("content-type"));
    let names =
        response.headers().keys().map(|name| name.as_str()).filter(|name| name.starts_with("x-tumen-"));
    let own = names.filter_map(|name| Some((name.to_owned(), header(name)?))).collect();
    let body =
        response.body_mut().with_config().limit(64 << 20).read_to_vec().map_err(|why| why.to_string())?;
    Ok(Answer { status: response.status().as_u16(), etag, content_type, own, body })
}
