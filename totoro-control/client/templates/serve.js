
// The running tunnels as they change: the server says that something did, and has the part of the page
// ready. What has the focus keeps it, what was open stays open.
const live = document.querySelector("[data-live]");
if (live) {
  let busy = false, again = false;
  const refresh = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(live.dataset.part, { headers: { accept: "text/html" } });
      if (answer.ok) {
        const focused = document.activeElement?.id;
        const open = [...live.querySelectorAll("details[open]")].map((one) => one.id);
        live.innerHTML = await answer.text();
        for (const id of open) { if (id) document.getElementById(id)?.setAttribute("open", ""); }
        offerCopies(live);
        if (focused && live.querySelector(`#${CSS.escape(focused)}`)) document.getElementById(focused).focus();
      }
    } catch { /* The server is away: the event source comes back with it. */ }
    busy = false;
    if (again) { again = false; refresh(); }
  };
  // The first, too: something may have changed since the page was made.
  new EventSource(live.dataset.live).addEventListener("connections", refresh);
}
