// The page: what stands around the views, and which view is shown.

import "./app.css";
import { render } from "preact";
import { useEffect } from "preact/hooks";
import { About } from "./about";
import { DeviceList } from "./devices";
import { expose } from "./expose";
import { Login } from "./login";
import { MapPage } from "./map";
import { follow, link, route } from "./router";
import { dark, live, needsLogin, nextTheme, outdated, refreshStatus, status, theme } from "./state";
import { Connection, Strip } from "./strip";
import { text } from "./strings";
import { TopicList } from "./topics";
import workerURL from "asset:../vendor/maplibre-gl/maplibre-gl-worker.mjs";

// The one script address that is made from text is that of the map's worker. Everything else that would run text is refused.
(window as unknown as { trustedTypes?: { createPolicy(name: string, rules: object): void } }).trustedTypes?.createPolicy("default", {
  createScriptURL(url: string): string {
    if (new URL(url, location.href).href !== new URL(workerURL, location.href).href) throw new TypeError("not a script of this page");
    return url;
  },
});

function Bar() {
  const here = route.value.page;
  return (
    <header class="bar">
      <a class="brand" href={link("map")}>
        <svg viewBox="0 0 24 24" width="22" height="22" aria-hidden="true">
          <path d="M2 16c3-5 5-5 7.5-1s5 4 7.5-1S21 9 22 8" fill="none" stroke="currentColor" stroke-width="2.6" stroke-linecap="round" />
          <circle cx="9.5" cy="15" r="2.6" fill="var(--accent)" />
        </svg>
        <span>{text.name}</span>
      </a>
      <nav aria-label="Views">
        {(["map", "devices", "topics", "about"] as const).map((p) => (
          <a key={p} href={link(p)} aria-current={here === p ? "page" : undefined}>{text.pages[p]}</a>
        ))}
      </nav>
      <Connection />
      <button class="icon" onClick={nextTheme} aria-label={text.theme[theme.value]} title={text.theme[theme.value]}>
        <svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true">
          {dark.value
            ? <path d="M20 14.500A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.500z" fill="currentColor" />
            : <g stroke="currentColor" stroke-width="2" stroke-linecap="round" fill="none"><circle cx="12" cy="12" r="4" fill="currentColor" stroke="none" /><path d="M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6 7 7M17 17l1.4 1.4M18.4 5.6 17 7M7 17l-1.4 1.4" /></g>}
        </svg>
      </button>
    </header>
  );
}

function Warnings() {
  const list = status.value?.warnings ?? [];
  const notReady = status.value && !status.value.ready ? status.value.checks.filter((c) => !c.ok) : [];
  if (list.length === 0 && notReady.length === 0 && !outdated.value) return null;
  return (
    <div class="warnings" role="alert">
      {outdated.value && <p>{text.connection.version} <button onClick={() => location.reload()}>{text.connection.reload}</button></p>}
      {notReady.map((c) => <p key={c.name}><strong>{text.about.notReady}:</strong> {c.name} {c.detail}</p>)}
      {list.map((w) => <p key={w}><strong>{text.warnings}:</strong> {w}</p>)}
    </div>
  );
}

function App() {
  const page = route.value.page;
  useEffect(() => {
    document.title = page === "unknown" ? text.name : `${text.pages[page]} · ${text.name}`;
  }, [page]);
  useEffect(() => {
    live.open();
    void refreshStatus();
    const every = setInterval(() => {
      if (!document.hidden) void refreshStatus();
    }, 10_000);
    return () => clearInterval(every);
  }, []);
  // Who must log in again goes on where he was: the page stays, out of reach, behind the form.
  return (
    <>
    {needsLogin.value && <Login />}
    <div class="app" inert={needsLogin.value} onClick={follow}>
      <a class="skip" href="#main">{text.skip}</a>
      <Bar />
      <Strip />
      <Warnings />
      <main id="main" tabIndex={-1}>
        <MapPage visible={page === "map"} />
        {page === "devices" && <DeviceList />}
        {page === "topics" && <TopicList />}
        {page === "about" && <About />}
        {page === "unknown" && <section class="page"><p>{text.notFound} <a href={link("map")}>{text.pages.map}</a></p></section>}
      </main>
    </div>
    </>
  );
}

// "/" goes to the search of the view, wherever the focus is.
addEventListener("keydown", (e) => {
  const at = e.target as HTMLElement;
  if (e.key === "/" && !e.ctrlKey && !e.metaKey && !/^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName)) {
    const search = document.querySelector<HTMLInputElement>("main input[type=search]:not([hidden])");
    if (search) {
      e.preventDefault();
      search.focus();
      search.select();
    }
  }
});

expose();
render(<App />, document.body);
