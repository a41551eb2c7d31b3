//! The HTTP transport under `object_store`, which keeps what went wrong in a form that can be matched.
//!
//! `object_store` hides status and error code of a failed write in private types. So a refusal never
//! reaches it as an answer: it goes up as an error that carries our [`EdgeError`], and comes out again
//! at the other end by its type. Nor does it repeat anything: each request is made by the policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blobmesh_protocol::Hash;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use reqwest::header::{CONTENT_LENGTH, HeaderValue};
use reqwest::{Request, Url};

use super::answer::Failure;
use super::error::{Action, Breach, EdgeError, Task, causes};
use super::http::Http;
use super::policy::{Ask, Policy};

/// How much of the answer to a write is read; they are a few hundred bytes.
const ANSWER_LEN_MAX: usize = 1 << 20;

/// Sends the requests of `object_store`.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    http: Http,
    policy: Arc<Policy>,
    signed: bool,
}

impl Transport {
    pub(super) fn new(http: Http, policy: Arc<Policy>, signed: bool) -> Self {
        Self { http, policy, signed }
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, Failure> {
        let (parts, body) = request.into_parts();
        let url = Url::parse(&parts.uri.to_string())
            .map_err(|error| Failure::Breach(Breach::Unintelligible { source: Arc::new(error) }))?;
        let len = u64::try_from(body.content_length()).unwrap_or(u64::MAX);
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let counted = body.map_frame(move |frame| {
            let len = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(0));
            counter.fetch_add(len, Ordering::Relaxed);
            frame
        });
        let mut request = Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        // Counting hides the body's length from the client, which would then send chunks; R2 takes
        // bodies of a known length only.
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
        *request.body_mut() = Some(reqwest::Body::wrap(counted));
        let mut answer = self.http.send_body(request, &sent, len).await?;
        if !answer.status().is_success() {
            return Err(Failure::Refusal(self.http.refusal(answer, self.signed).await));
        }
        let body = self.http.collect_answer(&mut answer, ANSWER_LEN_MAX).await?;
        let body = body.ok_or(Failure::Breach(Breach::NoLength))?;
        let mut response = HttpResponse::new(HttpResponseBody::from(body));
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        Ok(response)
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Transport {
    // The form that `async_trait` gives this method.
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> BoxFuture<'b, Result<HttpResponse, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            // Whoever asked knows which blob it is for, and puts that in.
            let task = Task { action: Action::Push, hash: Hash::from_bytes([0; 32]) };
            let exchange = || async {
                self.exchange(request.clone()).await.map_err(|failure| failure.during(task))
            };
            let done = self.policy.run(Ask::Push, task, exchange).await;
            let (response, flight) =
                done.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
            flight.served();
            Ok(response)
        })
    }
}

/// Finds the error that [`Transport`] sent up; anything else is an answer that made no sense.
pub(super) fn error_of(error: object_store::Error, task: Task) -> EdgeError {
    let found = causes(&error).find_map(|cause| cause.downcast_ref::<EdgeError>());
    match found {
        Some(found) => found.of_task(task),
        None => Failure::Breach(Breach::Unintelligible { source: Arc::new(error) }).during(task),
    }
}
