// The page is whole without this script. With it, the parts that change are
// brought up to date: each event is named after the element whose content it is.
const stream = document.querySelector("[data-stream]");
if (stream && window.EventSource) {
  const note = document.getElementById("live-note");
  const events = new EventSource(stream.dataset.stream);
  for (const name of ["live", "actions", "registers"]) {
    const part = document.getElementById(name);
    let shown = null;
    let newest = null;
    const show = () => {
      // What someone is typing into or about to press is left alone until they leave it.
      if (newest === shown || part.contains(document.activeElement)) return;
      shown = newest;
      part.innerHTML = newest; // made by the server's own template
    };
    events.addEventListener(name, (event) => { newest = event.data; show(); });
    part.addEventListener("focusout", () => setTimeout(show));
  }
  events.onopen = () => { note.textContent = "Live"; note.dataset.live = "yes"; };
  events.onerror = () => { note.textContent = "Not live: reconnecting"; note.dataset.live = "no"; };
}
