//! What an operator does to etcd: ask who leads, make users.

use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::cluster::Cluster;

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// `AuthUserAddRequest`, and `AuthRoleAddRequest`, which has only the first field.
#[derive(Clone, PartialEq, Message)]
struct Add {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    password: String,
}

/// `AuthUserGrantRoleRequest`.
#[derive(Clone, PartialEq, Message)]
struct UserGrantRole {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    role: String,
}

#[derive(Clone, PartialEq, Message)]
struct Permission {
    /// 2 = read and write.
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    range_end: Vec<u8>,
}

/// `AuthRoleGrantPermissionRequest`.
#[derive(Clone, PartialEq, Message)]
struct RoleGrantPermission {
    #[prost(string, tag = "1")]
    role: String,
    #[prost(message, optional, tag = "2")]
    permission: Option<Permission>,
}

async fn call<Q, A>(channel: &Channel, method: &'static str, message: Q) -> Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static(method);
    let answer = grpc.unary(Request::new(message), path, ProstCodec::<Q, A>::default()).await?;
    Ok(answer.into_inner())
}

/// Index of the leader among members without TLS. All of them have to be there.
pub(crate) async fn leader(endpoints: Vec<String>) -> usize {
    let mut ids = Vec::new();
    let mut leader = 0;
    for endpoint in endpoints {
        let channel = Endpoint::from_shared(endpoint).unwrap().connect().await.unwrap();
        let status: StatusResponse =
            call(&channel, "/etcdserverpb.Maintenance/Status", Empty {}).await.unwrap();
        ids.push(status.header.unwrap().member_id);
        leader = status.leader;
    }
    ids.iter().position(|&id| id == leader).unwrap()
}

/// Makes `user`, who may read and write what begins with `prefix` and nothing else, and asks for users from now on.
pub(crate) async fn enable_auth(cluster: &Cluster, user: &str, password: &str, prefix: &str) {
    let certs = cluster.certs.as_ref().unwrap();
    let read = |path| std::fs::read(path).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&certs.ca)))
        .identity(Identity::from_pem(read(&certs.client_cert), read(&certs.client_key)));
    let endpoint = Endpoint::from_shared(cluster.endpoint(0).to_owned()).unwrap().tls_config(tls).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let add = |name: &str, password: &str| Add { name: name.to_owned(), password: password.to_owned() };
    for (user, password) in [("root", "root's"), (user, password)] {
        let _: Empty = call(&channel, "/etcdserverpb.Auth/UserAdd", add(user, password)).await.unwrap();
        let _: Empty = call(&channel, "/etcdserverpb.Auth/RoleAdd", add(user, "")).await.unwrap();
        let grant = UserGrantRole { user: user.to_owned(), role: user.to_owned() };
        let _: Empty = call(&channel, "/etcdserverpb.Auth/UserGrantRole", grant).await.unwrap();
    }
    let mut range_end = prefix.as_bytes().to_vec();
    *range_end.last_mut().unwrap() += 1;
    let permission = Some(Permission { kind: 2, key: prefix.as_bytes().to_vec(), range_end });
    let grant = RoleGrantPermission { role: user.to_owned(), permission };
    let _: Empty = call(&channel, "/etcdserverpb.Auth/RoleGrantPermission", grant).await.unwrap();
    let _: Empty = call(&channel, "/etcdserverpb.Auth/AuthEnable", Empty {}).await.unwrap();
}
