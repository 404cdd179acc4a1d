//! Bodies of answers, which are as long as whoever answers likes.

use reqwest::Response;

/// Why a body can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// It broke off.
    #[error(transparent)]
    Broken(reqwest::Error),
    /// It is longer than this, bytes.
    #[error("more than {0} bytes")]
    TooLong(usize),
}

/// All of a body, of so many bytes at most.
///
/// # Errors
/// It breaks off, or goes on.
pub(crate) async fn whole(mut response: Response, most: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
        if body.len() + chunk.len() > most {
            return Err(BodyError::TooLong(most));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
