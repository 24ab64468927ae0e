"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const KEY = "nightwatt-token";
  const EVERY_MS = 60000;
  const say = (text, bad) => {
    const said = $("said");
    said.textContent = text;
    said.classList.toggle("bad", !!bad);
  };
  const reveal = (root) => {
    for (const e of root.querySelectorAll("[data-needs-script]")) e.hidden = false;
  };

  // Only parts that changed are replaced, and none that somebody is reading by keyboard.
  const renew = async () => {
    try {
      const answer = await fetch(location.pathname + location.search, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      reveal(fresh);
      for (const part of document.querySelectorAll("[data-live]")) {
        const other = fresh.getElementById(part.id);
        if (!other || part.contains(document.activeElement)) continue;
        const open = [...part.querySelectorAll("details[open]")].map((d) => d.id);
        for (const id of open) other.querySelector("#" + id)?.setAttribute("open", "");
        if (part.outerHTML !== other.outerHTML) part.replaceWith(document.adoptNode(other));
      }
      document.title = fresh.title;
      document.body.classList.remove("lost");
    } catch {
      document.body.classList.add("lost");
      say("The station does not answer; what is shown is old.", true);
      return;
    }
    if ($("said").textContent.startsWith("The station does not")) say("");
  };

  const change = async (path, done) => {
    const token = sessionStorage.getItem(KEY);
    const headers = token ? { authorization: "Bearer " + token } : {};
    say("Asking\u2026");
    try {
      const answer = await fetch(path, { method: "POST", headers });
      const said = await answer.json().catch(() => ({}));
      if (!answer.ok) {
        const none = answer.status === 401 && !token;
        say(none ? "This needs the station\u2019s token." : "Refused: " + (said.detail || answer.status), true);
        if (answer.status === 401) $("token").focus();
        return;
      }
      say(done(said));
      await renew();
    } catch {
      say("The station does not answer.", true);
    }
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.id === "retrain") {
      change("/api/ml/retrain?background=true", (said) => {
        const usual = said.estimated_duration_s;
        if (said.run_id === null) return "A run is queued; it begins when the present one ends.";
        return "Run " + said.run_id + " has begun" + (usual ? "; the last ones took " + Math.round(usual) + " s." : ".");
      });
    } else if (button?.id === "rollback") {
      const version = button.dataset.version;
      if (confirm("Make version " + version + " live again?")) {
        change("/api/ml/models/rollback", (said) => "Version " + said.version + " is live.");
      }
    } else if (button?.id === "token-forget") {
      sessionStorage.removeItem(KEY);
      say("The token is forgotten.");
    }
  });
  $("token-form")?.addEventListener("submit", (event) => {
    event.preventDefault();
    const token = $("token").value.trim();
    $("token").value = "";
    if (!token) return;
    sessionStorage.setItem(KEY, token);
    say("The token is kept in this tab.");
  });

  reveal(document);
  setInterval(() => {
    if ($("refresh").checked && !document.hidden) renew();
  }, EVERY_MS);
})();
