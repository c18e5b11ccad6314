"""What of a cluster's config anybody may see."""

from __future__ import annotations

from typing import Any

from arv_ssh.config.exported_config import export

SECRET = "s3cret"
SECRETS: dict[str, Any] = {
    "SystemRootToken": SECRET, "ManagementToken": SECRET, "PostgreSQL": {"Connection": {"password": SECRET}},
    "EmbeddedAPI": {"Database": SECRET}, "TLS": {"Key": SECRET}, "AuditLogs": {"MaxAge": SECRET},
    "API": {"VocabularyPath": SECRET}, "Collections": {"BlobSigningKey": SECRET, "ManagedProperties": {"x": SECRET}},
    "Containers": {"DispatchPrivateKey": SECRET, "CloudVMs": {"DriverParameters": {"SecretAccessKey": SECRET}},
                   "ShellAccess": {"AuditDirectory": SECRET}},
    "Login": {"Google": {"ClientSecret": SECRET}, "Test": {"Users": {"a": {"Password": SECRET}}}},
    "Services": {"Keepstore": {"InternalURLs": {SECRET: {}}}}, "RemoteClusters": {"yyyyy": {"Token": SECRET}},
    "Users": {"UserSetupMailText": SECRET}, "Workbench": {"RepositoryCache": SECRET},
    "Volumes": {"v": {"DriverParameters": {"SecretAccessKey": SECRET}, "AccessViaHosts": {"h": {"Password": SECRET}}}},
    "SomethingNew": {"a": SECRET},
}  # fmt: skip


def test_secrets_stay() -> None:
    """What is not known to be for everybody is not shown, wherever it is."""
    assert SECRET not in str(export("zzzzz", SECRETS))


def test_shapes() -> None:
    """A section where a value belongs, or the reverse, is not shown: who knows what is in it."""
    wrong: dict[str, Any] = {"API": SECRET, "Workbench": {"SiteName": {"x": SECRET}}, "Services": {"WebDAV": SECRET},
                             "Collections": {"BlobSigningTTL": [SECRET]}}  # fmt: skip
    assert SECRET not in str(export("zzzzz", wrong))


def test_what_is_shown() -> None:
    """Clients see the site's values, by the names that the site gave, and defaults where it has set nothing."""
    section = {
        "API": {"MaxItemsPerResponse": 10},
        "Services": {"Workbench2": {"ExternalURL": "https://wb"}},
        "InstanceTypes": {"big": {"VCPUs": 8, "Preemptible": True}},
        "Volumes": {"v": {"Replication": 2, "StorageClasses": {"archive": True}}},
        "Containers": {"ShellAccess": {"Admin": True, "Mode": "default-on"}},
        "Workbench": {"SiteName": "the site"},
    }
    shown = export("zzzzz", section)
    assert shown["ClusterID"] == "zzzzz" and shown["API"]["MaxItemsPerResponse"] == 10
    assert shown["Services"]["Workbench2"] == {"ExternalURL": "https://wb"}
    assert shown["Services"]["Keepstore"] == {"ExternalURL": ""}
    assert shown["InstanceTypes"] == section["InstanceTypes"] and shown["Volumes"] == section["Volumes"]
    assert shown["Containers"]["ShellAccess"] == {"Admin": True, "User": False}
    assert shown["Workbench"] == {"ArvadosDocsite": "https://doc.arvados.org/", "SiteName": "the site",
                                  "Theme": "default"}  # fmt: skip
    assert export("zzzzz", {}) == export("zzzzz", {"API": {}})
