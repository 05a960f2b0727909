defmodule Sango.Application do
  @moduledoc false
  # The registries that every instance shares, and the instance that the configuration names, if it names one.

  use Application

  @impl true
  def start(_type, _arguments) do
    Sango.Telemetry.load()

    children = [
      {Registry, keys: :unique, name: Sango.Registry},
      {Registry, keys: :duplicate, name: Sango.Watchers}
    ]

    instance = if options = Application.get_env(:engine, Sango), do: [{Sango, options}], else: []
    Supervisor.start_link(children ++ instance, strategy: :rest_for_one, name: Sango.Application.Supervisor)
  end
end
