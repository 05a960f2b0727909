defmodule SangoWeb.Router do
  @moduledoc "Every address of the server but the sockets'. Whatever is no endpoint may be a file of the studio page."

  use Phoenix.Router, helpers: false

  import Phoenix.LiveView.Router

  pipeline :browser do
    plug :fetch_session
    plug :protect_from_forgery
    plug :put_root_layout, html: {SangoWeb.Layouts, :root}
    plug SangoWeb.PageHeaders
  end

  scope "/v1", SangoWeb do
    get "/jobs", JobController, :index
    post "/jobs", JobController, :create
    get "/jobs/:id", JobController, :show
    delete "/jobs/:id", JobController, :delete
    get "/jobs/:id/events", EventController, :index
    get "/jobs/:id/result", ResultController, :show
    get "/jobs/:id/media/:index", ResultController, :media
    get "/models", SystemController, :models
  end

  scope "/", SangoWeb do
    get "/healthz", SystemController, :healthz
    get "/readyz", SystemController, :readyz
    get "/metrics", SystemController, :metrics
    get "/openapi.json", SystemController, :openapi
  end

  scope "/ops", SangoWeb do
    pipe_through :browser
    live "/", OpsLive
  end

  # An endpoint that exists, asked in another way.
  for {path, methods} <- [
        {"/v1/jobs", "GET, HEAD, POST"},
        {"/v1/jobs/:id", "GET, HEAD, DELETE"},
        {"/v1/jobs/:id/events", "GET, HEAD"},
        {"/v1/jobs/:id/result", "GET, HEAD"},
        {"/v1/jobs/:id/media/:index", "GET, HEAD"},
        {"/v1/models", "GET, HEAD"},
        {"/healthz", "GET, HEAD"},
        {"/readyz", "GET, HEAD"},
        {"/metrics", "GET, HEAD"},
        {"/openapi.json", "GET, HEAD"},
        {"/ops", "GET, HEAD"}
      ] do
    match :*, path, SangoWeb.SystemController, :method_not_allowed, assigns: %{methods: methods}
  end

  match :*, "/*path", SangoWeb.StudioController, :show
end
