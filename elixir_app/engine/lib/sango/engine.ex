defmodule Sango.Engine do
  @moduledoc """
  Owns the open engine of an instance, and gives the others its handle.

  Calls do not pass through this process: `call/3` looks the handle up and calls the backend in the process that asks.
  When this process dies the backend closes the engine (running jobs are kept as `interrupted`); its supervisor starts it
  again, and it opens the data folder as soon as the old engine has let go of it. Then those jobs run again.
  """

  use GenServer

  require Logger

  alias Sango.{Config, Error, Supervisor, Telemetry}

  # Between two attempts to open a folder that is still in use.
  @pause 50

  @doc false
  def start_link(%Config{} = config) do
    GenServer.start_link(__MODULE__, config, name: Supervisor.via(config.name, :owner))
  end

  @doc false
  def child_spec(config) do
    # Closing waits for the step that is running, which takes a while with a big model.
    %{id: __MODULE__, start: {__MODULE__, :start_link, [config]}, shutdown: 20_000}
  end

  @doc """
  Calls a function of the backend with the instance's handle before the arguments.

  While the engine is not open this is `{:error, %Sango.Error{code: "shutting_down"}}`.
  """
  @spec call(atom, atom, [term]) :: :ok | {:ok, term} | {:error, Error.t()}
  def call(name, function, arguments) do
    case Registry.lookup(Sango.Registry, {name, :engine}) do
      [{_pid, {backend, handle}}] ->
        backend |> apply(function, [handle | arguments]) |> wrap()

      [] ->
        {:error,
         Error.shutting_down("no engine is open under the name #{inspect(name)}: try again in a moment")}
    end
  end

  @doc "Ends a subscription that `call/3` has made."
  @spec unsubscribe(atom, Sango.Backend.subscription()) :: :ok
  def unsubscribe(name, subscription) do
    # With the engine gone, so is the subscription.
    with [{_pid, {backend, _handle}}] <- Registry.lookup(Sango.Registry, {name, :engine}) do
      backend.unsubscribe(subscription)
    end

    :ok
  end

  @impl true
  def init(%Config{} = config) do
    # So that `terminate/2` runs and the folder is free again when the supervisor's shutdown returns.
    Process.flag(:trap_exit, true)
    began = System.monotonic_time()
    deadline = System.monotonic_time(:millisecond) + config.open_timeout

    case open(config, deadline, _told? = false) do
      {:ok, handle} ->
        {:ok, _} = Registry.register(Sango.Registry, {config.name, :engine}, {config.backend, handle})

        Telemetry.execute([:sango, :engine, :open], %{duration: System.monotonic_time() - began}, %{
          name: config.name
        })

        {:ok, {config, handle}}

      {:error, %Error{} = error} ->
        {:stop, error}
    end
  end

  @impl true
  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, {config, handle}) do
    began = System.monotonic_time()
    Registry.unregister(Sango.Registry, {config.name, :engine})

    with {:error, {_code, message, _status}} <- config.backend.close(handle) do
      Logger.warning("Sango could not close its engine in time: #{message}")
    end

    Telemetry.execute([:sango, :engine, :close], %{duration: System.monotonic_time() - began}, %{
      name: config.name
    })
  end

  # An engine whose owner was killed closes in the background, and holds the folder until then.
  defp open(config, deadline, told?) do
    with {:error, %Error{code: "storage"} = error} <-
           wrap(config.backend.open(Config.backend_options(config), self())) do
      if System.monotonic_time(:millisecond) < deadline do
        if not told?, do: Logger.warning("Sango cannot open its data folder yet: #{error.message}")
        Process.sleep(@pause)
        open(config, deadline, true)
      else
        {:error, error}
      end
    end
  end

  defp wrap({:error, {_code, _message, _status} = reason}), do: {:error, Error.new(reason)}
  defp wrap(other), do: other
end
