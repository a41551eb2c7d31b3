//! Signs requests to an S3 service (AWS Signature Version 4).
//!
//! The signature travels in a header and not in the URL, so that no URL, logged here or by anybody on
//! the way, can be replayed. Bodies are not signed (`UNSIGNED-PAYLOAD`): whoever reads a blob
//! verifies it, and hashing it once more would only cost time.

use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Method, Url};

use super::error::{Cause, ConfigError};
use crate::config::Credentials;

/// The longest part of a key pair; no service comes near it.
const KEY_LEN_MAX: usize = 1024;

/// Holds a key pair and signs with it; never shows the secret.
pub(super) struct Signer {
    credential: AwsCredential,
    region: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(redacted)")
    }
}

impl Signer {
    /// Checks the key pair: the signing code takes what it is given for granted, and a stray line end
    /// of a secret's file is the most common mistake.
    pub(super) fn new(credentials: &Credentials, region: &str) -> Result<Self, ConfigError> {
        check(&credentials.access_key_id, "access_key_id")?;
        check(&credentials.secret_access_key, "secret_access_key")?;
        let credential = AwsCredential {
            key_id: credentials.access_key_id.clone(),
            secret_key: credentials.secret_access_key.clone(),
            token: None,
        };
        Ok(Self { credential, region: region.to_owned() })
    }

    /// Returns the headers that sign a request without a body.
    pub(super) fn headers(&self, method: Method, url: &Url) -> Result<HeaderMap, Cause> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        *request.uri_mut() = match url.as_str().parse() {
            Ok(uri) => uri,
            Err(error) => {
                return Err(Cause::from(Box::<dyn std::error::Error + Send + Sync>::from(error)));
            }
        };
        AwsAuthorizer::new(&self.credential, "s3", &self.region)
            .with_sign_payload(false)
            .try_authorize(&mut request, None)
            .map_err(|error| {
                Cause::from(Box::<dyn std::error::Error + Send + Sync>::from(error))
            })?;
        let mut headers = std::mem::take(request.headers_mut());
        if let Some(signature) = headers.get_mut(AUTHORIZATION) {
            signature.set_sensitive(true);
        }
        Ok(headers)
    }
}

fn check(value: &str, field: &'static str) -> Result<(), ConfigError> {
    let fits = !value.is_empty()
        && value.len() <= KEY_LEN_MAX
        && value.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(()) } else { Err(ConfigError::Credentials { field }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(id: &str, secret: &str) -> Result<Signer, ConfigError> {
        let credentials =
            Credentials { access_key_id: id.to_owned(), secret_access_key: secret.to_owned() };
        Signer::new(&credentials, "auto")
    }

    #[test]
    fn keys_with_stray_characters_are_refused_without_being_shown() {
        for (id, secret) in [("", "s"), ("i", ""), ("i", "hunter2\n"), ("i d", "s"), ("é", "s")] {
            let error = signer(id, secret).expect_err("a stray character");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn signature_and_secret_are_shown_nowhere() {
        let signer = signer("hunter1", "hunter2").expect("a key pair");
        assert!(!format!("{signer:?}").contains("hunter"));
        let url = Url::parse("https://a.example/bucket/blobs/ab/cd").expect("a URL");
        let headers = signer.headers(Method::GET, &url).expect("signed");
        assert!(headers.contains_key(AUTHORIZATION));
        let shown = format!("{headers:?}");
        assert!(!shown.contains("Signature=") && !shown.contains("hunter"), "{shown}");
        assert_eq!(url.query(), None);
    }
}
