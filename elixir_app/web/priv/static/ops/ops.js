// Connects the operations page to its LiveView; the two libraries are served as their packages ship them.
const token = document.querySelector("meta[name='csrf-token']").content;
new LiveView.LiveSocket("/live", Phoenix.Socket, { params: { _csrf_token: token } }).connect();
