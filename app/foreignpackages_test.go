package app

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/internal/browser"
)

// fetched finds a file that scripts/test-clients has fetched.
func fetched(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("..", ".tools", pattern))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not there: scripts/test-clients fetches it", pattern)
		}
		t.Skipf("SKIPPED: %s is not there: scripts/test-clients fetches it", pattern)
	}
	path, err := filepath.Abs(found[len(found)-1])
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A page that publishes at every QoS over WebSocket, and gets what it published, with its properties.
const pageOfMQTTJS = `<!doctype html><title>MQTT.js</title><script src="/mqtt.min.js"></script><script>
const got = [], said = [];
window.done = false;
const c = mqtt.connect(%q, { protocolVersion: %d, clientId: "page-%[2]d", reconnectPeriod: 0 });
c.on("error", (e) => said.push(String(e)));
c.on("close", () => said.push("closed"));
const user = { unit: "km", note: ["ä", "ö"] };
c.on("message", (topic, payload, p) => {
  const u = p.properties && p.properties.userProperties;
  got.push([topic, p.qos, payload.toString(), u ? u.unit + " " + [].concat(u.note).join(" ") : ""].join("|"));
  if (got.length === 3) window.done = true;
});
c.on("connect", () => c.subscribe("fleet/+/telemetry", { qos: 2 }, async (e) => {
  if (e) return said.push(String(e));
  for (const qos of [0, 1, 2]) {
    await c.publishAsync("fleet/page/telemetry", "{\"n\":" + qos + "}", { qos, properties: { userProperties: user } });
  }
}));
</script>`

// TestForeignMQTTJS is a browser's page that speaks MQTT over WebSocket, 3.1.1 and 5.0.
func TestForeignMQTTJS(t *testing.T) {
	library, err := os.ReadFile(fetched(t, "mqttjs-*/mqtt.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig(t, "routes:\n- {mqtt: \"fleet/{vehicle}/telemetry\", topic: telemetry, key: \"{vehicle}\"}\n")
	c.Listeners.WS = []config.MQTT{{Bind: "127.0.0.1:0"}}
	n := boot(t, c)
	for version, property := range map[int]string{4: "", 5: "km ä ö"} {
		pages := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/":
				fmt.Fprintf(w, pageOfMQTTJS, "ws://"+n.Address("WebSocket")+"/mqtt", version)
			case "/mqtt.min.js":
				w.Header().Set("Content-Type", "text/javascript")
				w.Write(library)
			default:
				w.WriteHeader(http.StatusNoContent)
			}
		}))
		p := browser.Open(t, 800, 600)
		p.Goto(pages.URL + "/")
		p.Wait("window.done || said.length > 0")
		want := fmt.Sprintf("fleet/page/telemetry|0|{\"n\":0}|%[1]s\nfleet/page/telemetry|1|{\"n\":1}|%[1]s\nfleet/page/telemetry|2|{\"n\":2}|%[1]s", property)
		if got := browser.Eval[string](p, `got.join("\n")`); got != want {
			t.Errorf("MQTT %d: the page got\n%s\nand says %s", version, got, browser.Eval[string](p, `said.join("; ")`))
		}
		pages.Close()
	}
}

// What Eclipse Paho for Python does, at its own pace: a session that is away while messages come, a will, properties.
const programOfPaho = `
import sys, threading, time
import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.packettypes import PacketTypes
host, port, version = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
v5 = version == 5
def client(name, clean):
    if v5: return mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
    return mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, clean_session=clean, protocol=mqtt.MQTTv311)
def connect(c, clean):
    ready = threading.Event()
    def on_connect(c, u, flags, reason, props):
        c.present = flags.session_present
        ready.set()
    c.on_connect = on_connect
    if v5:
        p = Properties(PacketTypes.CONNECT); p.SessionExpiryInterval = 0 if clean else 300
        c.connect(host, port, 20, clean_start=clean, properties=p)
    else:
        c.connect(host, port, 20)
    c.loop_start()
    if not ready.wait(20): sys.exit("no CONNACK")
def stop(c):
    c.disconnect(); c.loop_stop()
reader = client("reader%d" % version, False)
granted = threading.Event(); reader.on_subscribe = lambda *a: granted.set()
connect(reader, False)
reader.subscribe("fleet/+/state", 2)
if not granted.wait(20): sys.exit("no SUBACK")
stop(reader)
writer = client("writer%d" % version, True)
connect(writer, True)
for i in range(60):
    p = None
    if v5:
        p = Properties(PacketTypes.PUBLISH); p.UserProperty = [("unit", "km"), ("unit", "mi")]; p.ContentType = "text/plain"; p.MessageExpiryInterval = 600
    writer.publish("fleet/py/state", "%d" % i, 1 + i % 2, properties=p).wait_for_publish(20)
stop(writer)
got, complete = [], threading.Event()
reader = client("reader%d" % version, False)
def on_message(c, u, m):
    got.append((m.topic, int(m.payload), m.qos, getattr(m.properties, "UserProperty", None) if v5 else None, getattr(m.properties, "ContentType", None) if v5 else None))
    if len(got) == 60: complete.set()
reader.on_message = on_message
connect(reader, False)
if not reader.present: sys.exit("no session was present")
if not complete.wait(20): sys.exit("only %d messages" % len(got))
stop(reader)
want = [("fleet/py/state", i, 1 + i % 2, [("unit", "km"), ("unit", "mi")] if v5 else None, "text/plain" if v5 else None) for i in range(60)]
for qos in 1, 2: # this client gives the application a message of QoS 2 when its handshake is over, after later ones of QoS 1
    g, w = [m for m in got if m[2] == qos], [m for m in want if m[2] == qos]
    if g != w: sys.exit("QoS %d: %r" % (qos, g))
print("all")
`

// TestForeignPahoPython is Eclipse Paho for Python, 3.1.1 and 5.0.
func TestForeignPahoPython(t *testing.T) {
	python := tool(t, "python3")
	library := filepath.Dir(filepath.Dir(filepath.Dir(fetched(t, "paho-*/paho/mqtt/client.py"))))
	n := boot(t, testConfig(t, ""))
	host, port, _ := strings.Cut(n.Address("MQTT"), ":")
	for _, version := range []string{"4", "5"} {
		cmd := exec.CommandContext(t.Context(), python, "-c", programOfPaho, host, port, version)
		cmd.Env = append(os.Environ(), "PYTHONPATH="+library)
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "all" {
			t.Errorf("MQTT %s: %v\n%s", version, err, out)
		}
	}
}
