defmodule SangoWeb.Application do
  @moduledoc false

  use Application

  @impl true
  def start(_type, _arguments) do
    children = [
      SangoWeb.Metrics,
      {Phoenix.PubSub, name: SangoWeb.PubSub},
      SangoWeb.Endpoint,
      # Last, so that it is stopped first: streams end before the endpoint waits for its connections.
      SangoWeb.Drain
    ]

    Supervisor.start_link(children, strategy: :one_for_one, name: SangoWeb.Supervisor)
  end

  @impl true
  def config_change(changed, _new, removed) do
    SangoWeb.Endpoint.config_change(changed, removed)
    :ok
  end
end
