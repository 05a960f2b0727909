/** A TCP proxy on a loopback port that can be cut like a cable. */

import net from "node:net";

/** Forwards every connection to a port, until it is cut. */
export class Proxy {
  #sockets = new Set();
  #cut = false;

  static async to(port) {
    const proxy = new Proxy();
    proxy.server = net.createServer((near) => {
      if (proxy.#cut) return near.destroy();
      const far = net.connect(port, "127.0.0.1");
      for (const [one, other] of [[near, far], [far, near]]) {
        proxy.#sockets.add(one);
        one.pipe(other);
        one.on("error", () => other.destroy());
        one.on("close", () => {
          proxy.#sockets.delete(one);
          other.destroy();
        });
      }
    });
    await new Promise((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}/`;
    return proxy;
  }

  /** Drops every connection, without a goodbye, and refuses new ones. */
  cut() {
    this.#cut = true;
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  /** Lets connections through again. */
  mend() {
    this.#cut = false;
  }

  close() {
    this.cut();
    return new Promise((resolve) => this.server.close(resolve));
  }
}
