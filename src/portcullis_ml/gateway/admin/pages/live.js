// Replaces the part of the page that changes with what the server sends.
"use strict";
const part = document.getElementById("live");
if (part) {
  const link = document.getElementById("link");
  const source = new EventSource(part.dataset.source);
  source.onopen = () => { link.textContent = "live"; };
  source.onerror = () => {
    link.textContent = source.readyState === EventSource.CLOSED ? "ended: load the page again" : "waiting for the gate";
  };
  source.onmessage = (event) => { part.innerHTML = event.data; };
}
