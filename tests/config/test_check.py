"""A configuration is refused with all its mistakes, each with its place and what to write instead."""

from __future__ import annotations

import pytest

from gateway.config.check import check_text, schema
from gateway.errors import ConfigError
from gateway.names import TopicName
from gateway.replication.settings import ReplicationSettings

FILE = "/etc/headwater/headwater.yaml"
GATEWAY = "gateway: {id: hall-7, data_dir: data}\n"
SENSOR = '{name: boilers, type: mqtt, listen: "127.0.0.1:1883", subscribe: ["boiler/+/temp"], topic: temperature}'
CLOUD = "name: cloud, service_url: 'pulsar://cloud.example.com:6650'"


def _lines(text: str) -> list[str]:
    """The mistakes as `line:column message | hint`."""
    with pytest.raises(ConfigError) as caught:
        check_text(text, FILE)
    assert all(mistake.file == FILE for mistake in caught.value.mistakes)
    return [f"{m.line}:{m.column} {m.message} | {m.hint}" for m in caught.value.mistakes]


def test_check_accepts_the_smallest_file_and_fills_in_the_defaults() -> None:
    """An id and a data directory are enough; the rest has the documented defaults."""
    described = check_text(GATEWAY, FILE)
    assert described["gateway_id"] == "hall-7"
    assert described["log"] == {"data_dir": "/etc/headwater/data", "quota_bytes": 8 << 30}
    assert described["pulsar"] == ("127.0.0.1", 6650)
    assert described["http"] == ("127.0.0.1", 8080)
    assert described["default_namespace"] == "public/default"
    assert described["sensors"] == {}
    assert described["replications"] == []


def test_check_reports_all_mistakes_at_once_in_the_order_of_the_file() -> None:
    """Ten mistakes are ten lines, not ten runs."""
    text = """\
gateway: {id: "hall 7", data_dri: /x, disk_quota: 10, listen: {pulsar: "0.0.0.0:6650"}}
namespaces:
  plant/hall7: {commit_interval: 250, deduplication: yes}
  plant: {}
topics:
  alarms: {partition: 3}
sensors:
  - {name: boilers, type: mqtt, listen: "127.0.0.1:1883", subscribe: [], topic: t, format: 7}
funtions: []
"""
    assert _lines(text) == [
        "1:10 'data_dir' is missing | ",
        "1:15 'hall 7' is no identifier: letters, digits and . _ - are allowed | ",
        "1:25 'data_dri' is no setting | did you mean 'data_dir'?",
        "1:51 '10' needs a unit | such as 8GiB",
        "1:72 listening on 0.0.0.0:6650 is refused: there are no users, certificates or tokens yet | "
        "write 127.0.0.1:6650",
        "3:34 '250' needs a unit | such as 250ms",
        "3:54 'deduplication' should be true or false | ",
        "4:3 'plant' is not a namespace | write tenant/namespace, such as plant/hall7",
        "6:12 'partition' is no setting | did you mean 'partitions'?",
        "8:70 'subscribe' should not be empty | ",
        "8:92 'format' should be text | put it in quotes",
        "9:1 'funtions' is no setting | known here: gateway, defaults, namespaces, topics, sensors, replication",
    ]


@pytest.mark.parametrize("section", ["functions: []", "patterns: []", "tiers: []", "fleet: {}"])
def test_check_says_of_later_sections_that_they_come_later(section: str) -> None:
    """A section of the documentation's outlook is not mistaken for a typing error."""
    (line,) = _lines(GATEWAY + section + "\n")
    assert line.startswith("2:1 ")
    assert "is not supported yet" in line
    assert "comes with a later version" in line or "come with a later version" in line


def test_check_names_the_connectors_for_an_unknown_type_and_nothing_else() -> None:
    """A sensor of a type that is not installed is one mistake, whatever else it holds."""
    text = (
        GATEWAY + 'sensors:\n  - {name: soil, type: coap, listen: "127.0.0.1:5683", resources: {}}\n  - {type: mqqt}\n'
    )
    assert _lines(text) == [
        "3:24 there is no connector for sensors of type 'coap' | CoAP sensors come with a later version",
        "4:12 there is no connector for sensors of type 'mqqt' | did you mean 'mqtt'?",
    ]


@pytest.mark.parametrize(
    ("listen", "word"),
    [
        ("0.0.0.0:6650", "refused"),
        ("[::]:6650", "refused"),
        ("192.168.1.5:6650", "refused"),
        (":6650", "not an IP address"),
        ("example.com:6650", "not an IP address"),
        ("127.0.0.1", "not an address"),
        ("127.0.0.1:65536", "not an address"),
        ("127.0.0.1:http", "not an address"),
    ],
)
def test_check_refuses_listeners_off_loopback(listen: str, word: str) -> None:
    """Nothing listens where other machines could connect, because nobody could be told apart from anybody."""
    for key in ("pulsar", "http"):
        (line,) = _lines(f'gateway: {{id: a, data_dir: d, listen: {{{key}: "{listen}"}}}}\n')
        assert word in line


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.3.2.1:1", "[::1]:6650", "localhost:6650"])
def test_check_accepts_listeners_on_loopback(listen: str) -> None:
    """All of 127.0.0.0/8, ::1 and the name localhost are this machine."""
    host = check_text(f'gateway: {{id: a, data_dir: d, listen: {{pulsar: "{listen}"}}}}\n', FILE)["pulsar"][0]
    assert host in ("127.0.0.1", "127.3.2.1", "::1")


@pytest.mark.parametrize("quota", ["1MiB", "35MiB", "9999999TiB"])
def test_check_refuses_a_quota_that_no_log_fits(quota: str) -> None:
    """The quota must hold the segments that a log needs at least."""
    (line,) = _lines(f"gateway: {{id: a, data_dir: d, disk_quota: {quota}}}\n")
    assert line.startswith("1:43 ")


def test_check_refuses_a_data_directory_whose_socket_no_system_can_name() -> None:
    """A path that is too long for a Unix socket is found before the gateway starts; the longest that fits is taken."""
    fits = "/" + "d" * (107 - len("//control.sock"))
    assert check_text(f"gateway: {{id: a, data_dir: {fits}}}\n", FILE)["log"]["data_dir"] == fits
    (line,) = _lines(f"gateway: {{id: a, data_dir: {fits}d}}\n")
    assert line.startswith("1:28 ")
    assert "too long a name for a socket" in line


def test_check_refuses_a_home_that_no_shell_fills_in() -> None:
    """`~/x` would make a folder called `~`."""
    assert _lines("gateway: {id: a, data_dir: ~/headwater}\n") == [
        "1:28 '~/headwater' begins with ~ | write the path in full"
    ]
    (line,) = _lines(GATEWAY + f"replication:\n  - {{{CLOUD}, namespaces: [a/b], token_file: ~/token}}\n")
    assert line.endswith("'~/token' begins with ~ | write the path in full")


def test_check_refuses_an_address_that_two_listeners_want() -> None:
    """One port in two places of the file is found before anything starts; sensors of a type share theirs."""
    text = f"gateway: {{id: a, data_dir: d, listen: {{http: '127.0.0.1:1883'}}}}\nsensors:\n  - {SENSOR}\n"
    assert _lines(text) == ["3:41 '127.0.0.1:1883' is taken in this file | http listens there: choose another port"]
    shared = GATEWAY + f"sensors:\n  - {SENSOR}\n  - {SENSOR.replace('boilers', 'others')}\n"
    assert len(check_text(shared, FILE)["sensors"]["mqtt"]) == 2


def test_check_refuses_two_sensors_of_one_name() -> None:
    """A sensor's name tells its messages apart from others'."""
    (line,) = _lines(GATEWAY + f"sensors:\n  - {SENSOR}\n  - {SENSOR}\n")
    assert line.startswith("4:12 'boilers' is the name of another one")


def test_check_lets_the_connector_refuse_its_sensor() -> None:
    """The connector's own words and hint reach the user, with the place of the value."""
    (line,) = _lines(GATEWAY + "sensors:\n  - " + SENSOR.replace("boiler/+/temp", "boiler/#/temp") + "\n")
    assert line.startswith("3:71 ")
    assert "#" in line


@pytest.mark.parametrize(
    ("template", "namespaces"),
    [
        ("persistent://plant/hall/all", "[plant/a]"),
        ("persistent://plant/{gateway.id}/{namespace}", "[plant/a]"),
        ("persistent://plant/{gateway.id}/{topic}", "[plant/a, plant/b]"),
        ("persistent://plant/{namespace}/{topic}", "[plant/a, other/a]"),
    ],
)
def test_check_refuses_a_template_that_maps_two_topics_to_one(template: str, namespaces: str) -> None:
    """Two edge topics in one remote topic would be told apart by nobody."""
    (line,) = _lines(GATEWAY + f"replication:\n  - {{{CLOUD}, namespaces: {namespaces}, topic: '{template}'}}\n")
    assert "two topics would be written to one remote topic" in line


@pytest.mark.parametrize(
    ("template", "namespaces", "remote"),
    [
        ("", "[plant/a, plant/b]", ""),
        ("persistent://plant/{gateway.id}/{topic}", "[plant/a]", "persistent://plant/hall-7/t"),
        (
            "persistent://{tenant}/{namespace}/{gateway.id}.{topic}",
            "[plant/a, plant/b]",
            "persistent://plant/a/hall-7.t",
        ),
    ],
)
def test_check_accepts_a_template_that_keeps_topics_apart(template: str, namespaces: str, remote: str) -> None:
    """What differs at the edge differs at the cloud."""
    topic = f", topic: '{template}'" if template else ""
    (item,) = check_text(GATEWAY + f"replication:\n  - {{{CLOUD}, namespaces: {namespaces}{topic}}}\n", FILE)[
        "replications"
    ]
    settings = ReplicationSettings(**item)
    assert settings.remote_topic(TopicName.parse("plant/a/t")) == (remote or "persistent://plant/a/t")


def test_check_refuses_an_unknown_placeholder() -> None:
    """A placeholder that does not exist would become part of the topic's name."""
    (line,) = _lines(GATEWAY + f"replication:\n  - {{{CLOUD}, namespaces: [a/b], topic: 'x/y/{{gateway}}{{topic}}'}}\n")
    assert "'{gateway}' is no placeholder" in line
    assert "{gateway.id}" in line


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_check_refuses_replication_to_the_gateway_itself(host: str) -> None:
    """The gateway's own port as the cloud would double every event for ever."""
    text = GATEWAY + f"replication:\n  - {{name: x, service_url: 'pulsar://{host}:6650', namespaces: [a/b]}}\n"
    (line,) = _lines(text)
    assert "in a circle" in line


def test_check_refuses_two_replications_of_one_topic_to_one_cloud() -> None:
    """Two replications have producer names of their own, so the cloud would store every event twice."""
    item = "service_url: 'pulsar://c:6650', namespaces: [a/b]"
    (line,) = _lines(GATEWAY + f"replication:\n  - {{name: one, {item}}}\n  - {{name: two, {item}}}\n")
    assert line.startswith("4:")
    assert "written there by 'one' already" in line


@pytest.mark.parametrize(
    "url", ["http://c:6650", "pulsar://", "c:6650", "pulsar://c:x", "pulsar+ssl:/c", "pulsar://[c"]
)
def test_check_refuses_what_is_no_service_url(url: str) -> None:
    """Only Pulsar's two schemes with a host are a service URL."""
    (line,) = _lines(GATEWAY + f"replication:\n  - {{name: x, service_url: '{url}', namespaces: [a/b]}}\n")
    assert "is no service URL" in line


def test_check_refuses_two_names_of_one_topic() -> None:
    """A short and a full name of the same topic would contradict each other."""
    text = GATEWAY + "topics:\n  alarms: {}\n  persistent://public/default/alarms: {}\n"
    assert _lines(text) == ["4:3 'persistent://public/default/alarms' is the same topic as 'alarms' | "]


def test_check_expands_short_topic_names_by_the_default_namespace() -> None:
    """Short names of the file live in `defaults.namespace`."""
    text = GATEWAY + "defaults: {namespace: plant/hall7}\ntopics:\n  alarms: {commit_interval: 5ms, partitions: 4}\n"
    assert check_text(text, FILE)["broker"]["topics"] == {
        "persistent://plant/hall7/alarms": {"commit_interval_ns": 5_000_000, "partitions": 4}
    }


def test_check_takes_files_relative_to_the_configuration() -> None:
    """A configuration and its secrets can be moved together."""
    text = (
        GATEWAY + f"replication:\n  - {{{CLOUD}, namespaces: [a/b], token_file: token, trust_certs_file: /x/ca.pem}}\n"
    )
    (item,) = check_text(text, FILE)["replications"]
    assert item["token_file"] == "/etc/headwater/token"
    assert item["trust_certs_file"] == "/x/ca.pem"


@pytest.mark.parametrize("text", ["- a\n", "just text\n", "7\n", "---\n"])
def test_check_refuses_a_file_that_is_no_mapping(text: str) -> None:
    """A list or a word is answered with what the file should begin with."""
    (line,) = _lines(text)
    assert line.endswith("the file must be a mapping | begin with `gateway:`")


def test_schema_knows_sections_and_sensors_and_allows_no_other_keys() -> None:
    """An editor that has the schema marks what `check` would refuse."""
    described = schema()
    assert set(described["properties"]) == {"gateway", "defaults", "namespaces", "topics", "sensors", "replication"}
    assert described["additionalProperties"] is False
    assert described["$defs"]["MqttModel"]["properties"]["type"]["const"] == "mqtt"
    assert described["$defs"]["NamespaceModel"]["properties"]["commit_interval"]["default"] == "0ms"
    assert all(model.get("additionalProperties", False) is False for model in described["$defs"].values())
