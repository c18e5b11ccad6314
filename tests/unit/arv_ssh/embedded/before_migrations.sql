BEGIN TRANSACTION;
CREATE TABLE api_client_authorizations (
	owner_uuid TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	expires_at DATETIME, 
	scopes JSON NOT NULL, 
	uuid TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	modified_at DATETIME NOT NULL, 
	modified_by_user_uuid TEXT, 
	PRIMARY KEY (uuid), 
	FOREIGN KEY(owner_uuid) REFERENCES users (uuid), 
	UNIQUE (digest)
);
INSERT INTO "api_client_authorizations" VALUES('zzzzz-tpzed-d9tiejq69daie8f','7a67c9779a9d0181f2adbe1d0681f18c9d0c29550cb2bd056986a0af0cc7c44f',NULL,'["all"]','zzzzz-gj3su-teazho68173liz1','2026-11-24 17:05:34.518702','2026-11-24 17:05:34.518702','zzzzz-tpzed-000000000000000');
INSERT INTO "api_client_authorizations" VALUES('zzzzz-tpzed-xurymjxw79nv3jz','bc04d04a2789f8ca3a49504c5a64787c0b7f5e118d285294dba5ca992e3d7cad',NULL,'["all"]','zzzzz-gj3su-m5w9jk8v0rl38x7','2026-11-24 17:05:34.526690','2026-11-24 17:05:34.526690','zzzzz-tpzed-000000000000000');
INSERT INTO "api_client_authorizations" VALUES('zzzzz-tpzed-l1s2piq4t4mps8r','a5878e08eb738fead1a9a0b68ef60c1a819eb35294633904708864992287b344',NULL,'["all"]','zzzzz-gj3su-ytkx15444prt7qb','2026-11-24 17:05:34.531161','2026-11-24 17:05:34.531161','zzzzz-tpzed-000000000000000');
INSERT INTO "api_client_authorizations" VALUES('zzzzz-tpzed-xurymjxw79nv3jz','164a504310820ac50f0ec60dac9bce5be789d49a1967dbbd79c8dbe09d11971a',NULL,'["GET /arvados/v1/containers/zzzzz-dz642-fvcbghirjk27m57", "PATCH /arvados/v1/containers/zzzzz-dz642-fvcbghirjk27m57", "PUT /arvados/v1/containers/zzzzz-dz642-fvcbghirjk27m57", "GET /arvados/v1/containers/current", "GET /arvados/v1/users/current", "GET /arvados/v1/api_client_authorizations/current"]','zzzzz-gj3su-ria1btw3g2cy5fd','2026-11-24 17:05:34.564596','2026-11-24 17:05:34.564596','zzzzz-tpzed-000000000000000');
CREATE TABLE container_requests (
	command JSON NOT NULL, 
	container_count INTEGER NOT NULL, 
	container_count_max INTEGER NOT NULL, 
	container_image TEXT, 
	container_uuid TEXT, 
	cumulative_cost DOUBLE NOT NULL, 
	cwd TEXT NOT NULL, 
	description TEXT, 
	environment JSON NOT NULL, 
	expires_at DATETIME, 
	filters JSON NOT NULL, 
	log_uuid TEXT, 
	mounts JSON NOT NULL, 
	name TEXT, 
	output_name TEXT, 
	output_path TEXT NOT NULL, 
	output_properties JSON NOT NULL, 
	output_storage_classes JSON NOT NULL, 
	output_ttl INTEGER NOT NULL, 
	output_uuid TEXT, 
	priority INTEGER NOT NULL, 
	properties JSON NOT NULL, 
	requesting_container_uuid TEXT, 
	runtime_constraints JSON NOT NULL, 
	scheduling_parameters JSON NOT NULL, 
	state TEXT NOT NULL, 
	use_existing BOOLEAN NOT NULL, 
	uuid TEXT NOT NULL, 
	owner_uuid TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	modified_at DATETIME NOT NULL, 
	modified_by_user_uuid TEXT, 
	PRIMARY KEY (uuid), 
	FOREIGN KEY(container_uuid) REFERENCES containers (uuid)
);
INSERT INTO "container_requests" VALUES('["sleep", "600"]',1,1,'arv-ssh/busybox:test','zzzzz-dz642-fvcbghirjk27m57',0.0,'/',NULL,'{}',NULL,'[]',NULL,'{}','from before',NULL,'/tmp','{}','["default"]',0,NULL,500,'{}',NULL,'{"vcpus": 1, "ram": 100000000}','{}','Committed',0,'zzzzz-xvhdp-4e64wxq381vzo1t','zzzzz-tpzed-xurymjxw79nv3jz','2026-11-24 17:05:34.537473','2026-11-24 17:05:34.537473','zzzzz-tpzed-xurymjxw79nv3jz');
CREATE TABLE containers (
	auth_uuid TEXT, 
	command JSON NOT NULL, 
	container_image TEXT NOT NULL, 
	cost DOUBLE NOT NULL, 
	cwd TEXT NOT NULL, 
	environment JSON NOT NULL, 
	exit_code INTEGER, 
	finished_at DATETIME, 
	gateway_address TEXT, 
	interactive_session_started BOOLEAN NOT NULL, 
	lock_count INTEGER NOT NULL, 
	locked_by_uuid TEXT, 
	log TEXT, 
	mounts JSON NOT NULL, 
	output TEXT, 
	output_path TEXT NOT NULL, 
	output_properties JSON NOT NULL, 
	output_storage_classes JSON NOT NULL, 
	priority INTEGER NOT NULL, 
	progress DOUBLE, 
	runtime_constraints JSON NOT NULL, 
	runtime_status JSON NOT NULL, 
	runtime_user_uuid TEXT, 
	scheduling_parameters JSON NOT NULL, 
	started_at DATETIME, 
	state TEXT NOT NULL, 
	reuse_key TEXT NOT NULL, 
	uuid TEXT NOT NULL, 
	owner_uuid TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	modified_at DATETIME NOT NULL, 
	modified_by_user_uuid TEXT, 
	PRIMARY KEY (uuid), 
	FOREIGN KEY(auth_uuid) REFERENCES api_client_authorizations (uuid)
);
INSERT INTO "containers" VALUES('zzzzz-gj3su-ria1btw3g2cy5fd','["sleep", "600"]','arv-ssh/busybox:test',0.0,'/','{}',NULL,NULL,'127.0.0.1:1',0,1,'zzzzz-gj3su-000000000000000',NULL,'{}',NULL,'/tmp','{}','["default"]',500,NULL,'{"vcpus": 1, "ram": 100000000}','{}','zzzzz-tpzed-xurymjxw79nv3jz','{}','2026-11-24 17:05:34.572759','Running','0d68936d05d0a8618e33fb48de8ac67af08a01cf1f012ed6f55ad6439d043fe0','zzzzz-dz642-fvcbghirjk27m57','zzzzz-tpzed-000000000000000','2026-11-24 17:05:34.537473','2026-11-24 17:05:34.572759','zzzzz-tpzed-000000000000000');
CREATE TABLE groups (
	name TEXT, 
	description TEXT, 
	group_class TEXT NOT NULL, 
	properties JSON NOT NULL, 
	uuid TEXT NOT NULL, 
	owner_uuid TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	modified_at DATETIME NOT NULL, 
	modified_by_user_uuid TEXT, 
	PRIMARY KEY (uuid)
);
CREATE TABLE links (
	link_class TEXT NOT NULL, 
	name TEXT, 
	tail_uuid TEXT, 
	head_uuid TEXT, 
	properties JSON NOT NULL, 
	uuid TEXT NOT NULL, 
	owner_uuid TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	modified_at DATETIME NOT NULL, 
	modified_by_user_uuid TEXT, 
	PRIMARY KEY (uuid)
);
CREATE TABLE users (
	username TEXT, 
	email TEXT, 
	first_name TEXT NOT NULL, 
	last_name TEXT NOT NULL, 
	identity_url TEXT, 
	is_active BOOLEAN NOT NULL, 
	is_admin BOOLEAN NOT NULL, 
	prefs JSON NOT NULL, 
	uuid TEXT NOT NULL, 
	owner_uuid TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	modified_at DATETIME NOT NULL, 
	modified_by_user_uuid TEXT, 
	PRIMARY KEY (uuid), 
	UNIQUE (username)
);
INSERT INTO "users" VALUES('root',NULL,'root','',NULL,1,1,'{}','zzzzz-tpzed-000000000000000','zzzzz-tpzed-000000000000000','2026-11-24 17:05:34.479187','2026-11-24 17:05:34.479187',NULL);
INSERT INTO "users" VALUES('admin','admin@example.com','','',NULL,1,1,'{}','zzzzz-tpzed-d9tiejq69daie8f','zzzzz-tpzed-000000000000000','2026-11-24 17:05:34.503140','2026-11-24 17:05:34.503140','zzzzz-tpzed-000000000000000');
INSERT INTO "users" VALUES('active','active@example.com','','',NULL,1,0,'{}','zzzzz-tpzed-xurymjxw79nv3jz','zzzzz-tpzed-000000000000000','2026-11-24 17:05:34.510005','2026-11-24 17:05:34.510005','zzzzz-tpzed-000000000000000');
INSERT INTO "users" VALUES('spectator','spectator@example.com','','',NULL,1,0,'{}','zzzzz-tpzed-l1s2piq4t4mps8r','zzzzz-tpzed-000000000000000','2026-11-24 17:05:34.514479','2026-11-24 17:05:34.514479','zzzzz-tpzed-000000000000000');
CREATE INDEX ix_users_owner_uuid ON users (owner_uuid);
CREATE INDEX ix_groups_owner_uuid ON groups (owner_uuid);
CREATE INDEX ix_links_tail_uuid ON links (tail_uuid);
CREATE INDEX ix_links_head_uuid ON links (head_uuid);
CREATE INDEX ix_links_owner_uuid ON links (owner_uuid);
CREATE INDEX ix_api_client_authorizations_owner_uuid ON api_client_authorizations (owner_uuid);
CREATE INDEX ix_containers_owner_uuid ON containers (owner_uuid);
CREATE INDEX ix_containers_auth_uuid ON containers (auth_uuid);
CREATE INDEX containers_by_state_and_priority ON containers (state, priority);
CREATE INDEX ix_containers_reuse_key ON containers (reuse_key);
CREATE INDEX ix_container_requests_owner_uuid ON container_requests (owner_uuid);
CREATE INDEX ix_container_requests_container_uuid ON container_requests (container_uuid);
COMMIT;
