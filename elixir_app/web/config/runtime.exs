import Config

# What the environment says, in development and in a release. See docs/phoenix.md for the variables.
if config_env() != :test do
  environment = SangoWeb.Environment.read!(System.get_env(), config_env())

  config :engine, Sango, environment.engine
  config :web, SangoWeb.Endpoint, environment.endpoint
  config :web, environment.web
end
