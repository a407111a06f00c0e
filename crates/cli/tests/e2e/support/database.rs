//! Sessions by tokio-postgres.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, SimpleQueryMessage};

/// Longest wait for a message that has to come.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Where to connect, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Database(pub(crate) Config);

/// A session. Its connection ends with it.
pub(crate) struct Session {
    client: Client,
    messages: mpsc::UnboundedReceiver<AsyncMessage>,
    connection: JoinHandle<Result<(), Error>>,
}

/// The SQLSTATE of an error; `client` when it did not come from the server.
pub(crate) fn code(error: &Error) -> String {
    error.code().map_or_else(|| "client".to_owned(), |code| code.code().to_owned())
}

impl Database {
    /// Over TCP.
    pub(crate) fn tcp(address: SocketAddr, password: &str) -> Self {
        let mut config = Config::new();
        config.host(address.ip().to_string()).port(address.port()).user("postgres").dbname("postgres");
        config.password(password).ssl_mode(tokio_postgres::config::SslMode::Disable);
        Self(config)
    }

    /// Over a server's own socket.
    pub(crate) fn socket(dir: &Path) -> Self {
        let mut config = Config::new();
        config.host_path(dir).port(5432).user("postgres").dbname("postgres");
        Self(config)
    }

    /// With this name in `pg_stat_activity`.
    pub(crate) fn named(mut self, name: &str) -> Self {
        self.0.application_name(name);
        self
    }

    /// As somebody else.
    pub(crate) fn user(mut self, user: &str, password: &str) -> Self {
        self.0.user(user).password(password);
        self
    }

    /// To another database.
    pub(crate) fn database(mut self, name: &str) -> Self {
        self.0.dbname(name);
        self
    }

    pub(crate) async fn try_connect(&self) -> Result<Session, Error> {
        let (client, mut connection) = self.0.connect(NoTls).await?;
        let (sender, messages) = mpsc::unbounded_channel();
        let connection = tokio::spawn(async move {
            while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                let _ = sender.send(message?);
            }
            Ok(())
        });
        Ok(Session { client, messages, connection })
    }

    pub(crate) async fn connect(&self) -> Session {
        self.try_connect().await.unwrap()
    }
}

impl Session {
    /// First value of the first row, by the simple protocol.
    pub(crate) async fn try_text(&self, query: &str) -> Result<String, Error> {
        let messages = self.client.simple_query(query).await?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
            _ => None,
        });
        Ok(row.unwrap_or_else(|| "(no row)".to_owned()))
    }

    /// The same of a query that works.
    pub(crate) async fn text(&self, query: &str) -> String {
        self.try_text(query).await.unwrap_or_else(|error| panic!("{query}: {error:?}"))
    }

    /// Checks the first value.
    pub(crate) async fn expect(&self, query: &str, expected: impl Display) {
        assert_eq!(self.text(query).await, expected.to_string(), "{query}");
    }

    /// Runs statements that work.
    pub(crate) async fn run(&self, statements: &str) {
        let done = self.client.batch_execute(statements).await;
        done.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// The SQLSTATE that statements fail with.
    pub(crate) async fn fails(&self, statements: &str) -> String {
        match self.client.simple_query(statements).await {
            Ok(_) => panic!("{statements}: no error"),
            Err(error) => code(&error),
        }
    }

    /// The next notice or notification.
    pub(crate) async fn message(&mut self) -> AsyncMessage {
        timeout(MESSAGE_TIMEOUT, self.messages.recv())
            .await
            .expect("no message comes")
            .expect("the session is over")
    }

    /// Channel and payload of the next notification.
    pub(crate) async fn notification(&mut self) -> (String, String) {
        loop {
            if let AsyncMessage::Notification(note) = self.message().await {
                return (note.channel().to_owned(), note.payload().to_owned());
            }
        }
    }

    /// Waits for the end of the connection: the SQLSTATE that it ended with.
    pub(crate) async fn end(&mut self) -> String {
        let end = timeout(MESSAGE_TIMEOUT, &mut self.connection).await.expect("the connection stays");
        match end.unwrap() {
            Ok(()) => "closed".to_owned(),
            Err(error) => code(&error),
        }
    }

    /// Vanishes as a client that was killed: no Terminate message, whatever is under way.
    pub(crate) async fn vanish(self) {
        self.connection.abort();
        // Dropped while the connection lives, the client would have it send Terminate.
        let _ = self.connection.await;
        drop(self.client);
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}
