defmodule SangoWeb.UserSocket do
  @moduledoc "The topics of the channel socket, see `docs/protocol.md`."

  # The page joins one topic for each picture it shows.
  @max_topics 256

  use Phoenix.Socket, max_channels_per_transport: @max_topics

  channel "studio", SangoWeb.StudioChannel
  channel "job:*", SangoWeb.JobChannel
  channel "*", SangoWeb.UnknownChannel

  @doc "How many topics one socket may join."
  @spec max_topics() :: pos_integer
  def max_topics, do: @max_topics

  # Any reference will do: jobs of different sockets take turns.
  @impl true
  def connect(_params, socket, _info), do: {:ok, assign(socket, :client, {:socket, make_ref()})}

  @impl true
  def id(_socket), do: nil
end
