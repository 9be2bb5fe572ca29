// A browser starts no Worker for a page that it has opened from a folder (file:), and the search of the site is one.
// There, a hidden frame takes the Worker's place. Everywhere else this file does nothing.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const inner = this.frame.contentWindow;
      window.addEventListener("message", (event) => {
        if (event.source !== inner) return;
        const copy = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(copy);
        this.onmessage?.(copy);
      });
      this.ready = new Promise((resolve) => {
        inner.document.open();
        inner.document.write("<!doctype html><body>");
        inner.document.close();
        // The worker's own `postMessage` must reach the page.
        inner.postToPage = (data) => window.dispatchEvent(new MessageEvent("message", { data, source: inner }));
        const script = inner.document.createElement("script");
        script.textContent = "var postMessage = postToPage; var importScripts = () => {};";
        inner.document.body.appendChild(script);
        const worker = inner.document.createElement("script");
        worker.src = url;
        worker.onload = resolve;
        inner.document.body.appendChild(worker);
      });
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
