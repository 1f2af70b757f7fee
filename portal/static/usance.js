// The page is whole without this script. With it, the parts that change are
// brought up to date: each event is named after the element whose content it is.
const stream = document.querySelector("[data-stream]");
if (stream && window.EventSource) {
  const note = document.getElementById("live-note");
  const events = new EventSource(stream.dataset.stream);
  const last = {};
  for (const name of ["live", "actions"]) {
    events.addEventListener(name, (event) => {
      const part = document.getElementById(name);
      // What someone is typing into is left alone until they are done.
      if (last[name] === event.data || part.contains(document.activeElement)) return;
      last[name] = event.data;
      part.innerHTML = event.data; // made by the server's own template
    });
  }
  events.onopen = () => { note.textContent = "Live"; note.dataset.live = "yes"; };
  events.onerror = () => { note.textContent = "Not live: reconnecting"; note.dataset.live = "no"; };
}
